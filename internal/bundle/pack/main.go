// Command pack compresses a program into the form that package bundle embeds: OUT.zst and OUT.sha256.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/klauspost/compress/zstd"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack PROGRAM OUT")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "pack %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func pack(program, out string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	digest := fmt.Sprintf("%x\n", sha256.Sum256(data))
	// Made again only when the program changed, so that an unchanged build stays unchanged.
	if old, err := os.ReadFile(out + ".sha256"); err == nil && string(old) == digest {
		if _, err := os.Stat(out + ".zst"); err == nil {
			return nil
		}
	}
	// A window of 4 MiB bounds the memory that unpacking takes.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(4<<20))
	if err != nil {
		return err
	}
	if err := os.WriteFile(out+".zst", enc.EncodeAll(data, nil), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out+".sha256", []byte(digest), 0o644)
}
