// Command make writes test images to files: what the package images assembles, for use by hand and by scripts.
//
//	go run ./test/images/make [-cache DIR] [-layout] OUT [IMAGE ...]
//
// OUT is a docker archive, or with -layout the directory of an OCI layout; without IMAGE it holds all of them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"sampan.dev/test/images"
)

func main() {
	cacheDir := flag.String("cache", "", "keep packages and archives in `DIR` (default: the user's cache directory)")
	asLayout := flag.Bool("layout", false, "write an OCI layout instead of a docker archive")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: make [-cache DIR] [-layout] OUT [IMAGE ...]\nimages: %v\n", images.All)
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	which := flag.Args()[1:]
	if len(which) == 0 {
		which = images.All
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cache, err := images.Open(*cacheDir)
	if err == nil {
		write := cache.WriteArchive
		if *asLayout {
			write = cache.WriteLayout
		}
		err = write(ctx, flag.Arg(0), which...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}
