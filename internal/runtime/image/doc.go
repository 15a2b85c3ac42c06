// Package image keeps the images of one node: it pulls them from registries, loads them from
// archives, unpacks their layers and says what is there.
//
// It writes below one directory, which belongs to one process at a time (a lock says so):
//
//	lock               held while the store is open
//	layers/sha256/HEX  one unpacked layer, named by the digest of its uncompressed archive: fs/ is an
//	                   overlay lower directory, layer.json what was counted while unpacking
//	images/HEX         one image, named by the digest of its configuration: config.json as it came, image.json
//	names.json         which name means which image
//	tmp/               what is being made; emptied by Open
//
// Always: a layer or image is there whole or not at all. Each is made under tmp, checked against its
// digests, synced, and renamed into place; so the process may be killed at any moment. A layer
// directory never changes once it has its name, and is deleted only when no image needs it and no
// container's snapshot does (Options.InUse). Nothing in an archive can name a path outside its layer.
//
// # Loading
//
// CRI has no call that loads an archive, so NewAdminHandler serves one over HTTP, meant for a unix socket of its
// own that only root can open:
//
//	POST /load[?name=NAME]     body: a docker archive or an OCI layout as tar, plain, gzip or zstd
//
// The answer to a request that is well formed has status 200, type application/x-ndjson, and one JSON object a line:
//
//	{"status":"unpacking","layer":"sha256:…","current":1048576,"total":7340032}
//	{"status":"present","layer":"sha256:…"}
//	{"status":"loaded","image":"sha256:…","names":["docker.io/library/nginx:latest"]}
//	{"status":"error","error":"load archive: …"}
//
// "unpacking" lines come while layers are unpacked (bytes of the archive's own form of the layer), "present" for a layer
// that needs none of it, "loaded" once an image. Exactly one of the last two kinds ends the answer: after an "error" line nothing
// follows, and an answer that ends without either was cut short. NAME is given to the archive's image if it holds exactly
// one and that one has no name. Other methods get 405, other paths 404.
package image
