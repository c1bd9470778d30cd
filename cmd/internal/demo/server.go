package demo

import (
	"context"
	"crypto"
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/drydock-os/drydock/omaha"
	"github.com/drydock-os/drydock/updater/image"
	"github.com/drydock-os/drydock/updater/payload"
	"github.com/drydock-os/drydock/updater/sim"
)

// server is an update server on loopback: Omaha, and files with Range.
type server struct {
	url     string
	files   string
	updates *omaha.Static
	http    *http.Server
	running sync.WaitGroup
}

// headerTimeout bounds what a client may take for its request.
const headerTimeout = 10 * time.Second

func serve(dir string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	s := &server{url: "http://" + l.Addr().String(), files: filepath.Join(dir, "payloads"), updates: &omaha.Static{AppID: appID}}
	if err := os.MkdirAll(s.files, 0o755); err != nil {
		return nil, fmt.Errorf("make payload directory: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/update/", &omaha.Handler{Updates: s.updates})
	mux.Handle("/payloads/", http.StripPrefix("/payloads/", http.FileServer(http.Dir(s.files))))
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	s.running.Go(func() { s.http.Serve(l) })
	return s, nil
}

// Close ends the server.
func (s *server) Close() {
	s.http.Close()
	s.running.Wait()
}

// publish makes a payload of an image, signs it, and offers it.
func (s *server) publish(ctx context.Context, version, img string, key crypto.Signer) (int64, error) {
	in, err := os.Open(img)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return 0, err
	}
	path := filepath.Join(s.files, version)
	out, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	spec := payload.Spec{Major: 2, Version: version, Signers: []crypto.Signer{key}, TempDir: s.files,
		Partitions: []payload.Image{{Name: payload.Root, Image: in, Size: info.Size()}}}
	if err := payload.Create(ctx, out, spec); err != nil {
		return 0, err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	h := sha256.New()
	size, err := io.Copy(h, out)
	if err != nil {
		return 0, err
	}
	s.updates.Release(&omaha.Offer{Update: true, Version: version, Name: version, URLs: []string{s.url + "/payloads/" + version},
		Size: size, SHA256: h.Sum(nil), DisableBackoff: true})
	return size, nil
}

// makeImage makes a small file system that says which release it is, with
// content that compresses to about half.
func makeImage(dir, version string, size int64) (string, error) {
	path := filepath.Join(dir, version+".erofs")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content := make([]byte, size-(1<<20))
	seed := fnv.New64a()
	io.WriteString(seed, version)
	random := rand.New(rand.NewPCG(seed.Sum64(), 0))
	for i := 0; i < len(content); i += 8192 {
		for j := range min(4096, len(content)-i) {
			content[i+j] = byte(random.Uint32())
		}
	}
	if err := image.Create(f, image.File{Name: "lib/os-release", Data: []byte(sim.OSRelease(version))}, image.File{Name: "share/content", Data: content}); err != nil {
		return "", err
	}
	return path, f.Truncate(size)
}
