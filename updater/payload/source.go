package payload

import (
	"context"
	"io"
	"os"
)

// A Source opens a payload's bytes from a byte offset on: an HTTP server that
// honours Range, or a file. The reader may be closed before its end. A Source
// answers for the offset: what it cannot begin there it refuses.
type Source interface {
	Open(ctx context.Context, offset int64) (io.ReadCloser, error)
}

// FileSource is the payload in a file at path.
func FileSource(path string) Source { return fileSource(path) }

type fileSource string

// Open opens the file anew each time.
func (s fileSource) Open(_ context.Context, offset int64) (io.ReadCloser, error) {
	f, err := os.Open(string(s))
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
