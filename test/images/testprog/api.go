package main

import (
	"fmt"
	"io"
	"os"

	"k8s.io/client-go/rest"
)

// askAPI prints the status and the body of one request to the API, for which a pod needs nothing but what every pod is given.
func askAPI(path string) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	for _, host := range []string{config.Host, "https://kubernetes.default.svc"} {
		resp, err := client.Get(host + path)
		if err != nil {
			return err
		}
		fmt.Println(resp.Status)
		_, err = io.Copy(os.Stdout, resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
