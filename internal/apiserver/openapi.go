package apiserver

import (
	"net/http"

	"sampan.dev/internal/resource"
)

type openapiDocs struct{}

func newOpenAPIDocs(*resource.Table, string) *openapiDocs { return &openapiDocs{} }

func (o *openapiDocs) serve(s *Server, w http.ResponseWriter, r *http.Request) error {
	http.NotFound(w, r)
	return nil
}
