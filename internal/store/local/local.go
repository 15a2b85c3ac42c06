package local

import (
	"log/slog"

	"sampan.dev/internal/store"
)

// Options of a store; the zero value is ready to use.
type Options struct {
	Log *slog.Logger // nil: slog.Default()

	// HistoryRevisions and HistoryBytes bound the events kept for Watch: those of the last so many
	// revisions, in at most so many bytes on disk. Zero takes 65,536 and 32 MB.
	HistoryRevisions int64
	HistoryBytes     int64
}

// Store is the embedded engine.
type Store struct{ store.Store }

// Open opens the store in dir, or makes one there.
func Open(dir string, opts Options) (*Store, error) { panic("being written") }
