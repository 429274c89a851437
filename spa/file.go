package spa

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxRead bounds what is read of a file beforehand: to make an ETag of it, or
// because it can't seek.
const maxRead = 64 << 20

// types are the content types of what applications are made of. The system's
// tables are not asked: they differ, and a wrong one breaks a page under
// nosniff.
var types = map[string]string{
	".avif":        "image/avif",
	".bmp":         "image/bmp",
	".css":         "text/css; charset=utf-8",
	".csv":         "text/csv; charset=utf-8",
	".eot":         "application/vnd.ms-fontobject",
	".flac":        "audio/flac",
	".gif":         "image/gif",
	".gz":          "application/gzip",
	".htm":         "text/html; charset=utf-8",
	".html":        "text/html; charset=utf-8",
	".ico":         "image/x-icon",
	".jpeg":        "image/jpeg",
	".jpg":         "image/jpeg",
	".js":          "text/javascript; charset=utf-8",
	".json":        "application/json",
	".jxl":         "image/jxl",
	".m4a":         "audio/mp4",
	".map":         "application/json",
	".md":          "text/markdown; charset=utf-8",
	".mjs":         "text/javascript; charset=utf-8",
	".mp3":         "audio/mpeg",
	".mp4":         "video/mp4",
	".oga":         "audio/ogg",
	".ogg":         "audio/ogg",
	".ogv":         "video/ogg",
	".opus":        "audio/ogg",
	".otf":         "font/otf",
	".pdf":         "application/pdf",
	".png":         "image/png",
	".svg":         "image/svg+xml",
	".ttf":         "font/ttf",
	".txt":         "text/plain; charset=utf-8",
	".vtt":         "text/vtt; charset=utf-8",
	".wasm":        "application/wasm",
	".wav":         "audio/wav",
	".webm":        "video/webm",
	".webmanifest": "application/manifest+json",
	".webp":        "image/webp",
	".woff":        "font/woff",
	".woff2":       "font/woff2",
	".xhtml":       "application/xhtml+xml",
	".xml":         "text/xml; charset=utf-8",
	".zip":         "application/zip",
}

// typeOf returns the content type of a file, by its name alone.
func typeOf(name string) string {
	if name == ".well-known/apple-app-site-association" { // has no extension
		return "application/json"
	}
	if t, ok := types[strings.ToLower(path.Ext(name))]; ok {
		return t
	}
	return "application/octet-stream"
}

// isDocument reports whether browsers show a type as a page of ours, scripts
// included. SVG and XML can be that too, but are not what people open.
func isDocument(contentType string) bool { return strings.HasPrefix(contentType, "text/html") }

// serveFile answers with a file that is no document.
func (h *handler) serveFile(w http.ResponseWriter, r *http.Request, name string, info fs.FileInfo) error {
	encoding, varies := h.encoding(r, name, info)
	f, err := h.open(name + encoding.suffix)
	if err != nil {
		return err
	}
	defer f.Close()
	etag, err := h.etag(name+encoding.suffix, f)
	if err != nil {
		return err
	}
	header := w.Header()
	h.headers.set(header, h.headers.static)
	header.Set("Content-Type", typeOf(name))
	if h.immutable(name) {
		setCache(header, "max-age=31536000, immutable")
	} else {
		setCache(header, "no-cache")
	}
	if etag != "" {
		header.Set("Etag", etag)
	}
	if varies {
		header.Add("Vary", "Accept-Encoding")
	}
	if encoding.name != "" {
		header.Set("Content-Encoding", encoding.name)
		// ServeContent leaves the length out of an encoded answer. A 412 has
		// another one.
		if r.Header.Get("If-Match") == "" && r.Header.Get("If-Unmodified-Since") == "" {
			header.Set("Content-Length", strconv.FormatInt(f.size, 10))
		}
	}
	http.ServeContent(w, r, "", f.modified, f) // preconditions and ranges
	return nil
}

// setCache says how long an answer may be kept. What a handler around us said is
// not loosened: its no-store becomes private, and an answer that sets a cookie
// is kept by nobody.
func setCache(header http.Header, value string) {
	switch outer := strings.ToLower(header.Get("Cache-Control")); {
	case len(header["Set-Cookie"]) > 0:
		value = "no-store"
	case strings.Contains(outer, "no-store"), strings.Contains(outer, "private"):
		value = "private, " + value
	}
	header.Set("Cache-Control", value)
}

// An encoding is one in which a file can lie beside itself.
type encoding struct{ name, suffix string }

var encodings = []encoding{{"br", ".br"}, {"gzip", ".gz"}} // the better first

// encoding chooses how a file is sent. It reports whether that varies with the
// request. A range is one of the file itself.
func (h *handler) encoding(r *http.Request, name string, info fs.FileInfo) (chosen encoding, varies bool) {
	best := 0.0
	ranged := r.Header.Get("Range") != "" && !isDocument(typeOf(name))
	for _, e := range encodings {
		beside, err := fs.Stat(h.fsys, name+e.suffix)
		// One that is older than the file was made of another. Compressors keep
		// the time, some without fractions.
		if err != nil || !beside.Mode().IsRegular() || beside.ModTime().Unix() < info.ModTime().Unix() {
			continue
		}
		varies = true
		q, identity := accepted(r.Header["Accept-Encoding"], e.name)
		if !ranged && q > best && q >= identity {
			chosen, best = e, q
		}
	}
	return chosen, varies
}

// accepted returns the weights that Accept-Encoding gives to an encoding and,
// if it names that, to none at all (RFC 9110, section 12.5.3).
func accepted(header []string, name string) (q, identity float64) {
	named := false
	for part := range strings.SplitSeq(strings.Join(header, ","), ",") {
		coding, params, _ := strings.Cut(part, ";")
		weight := 1.0
		if v, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(params, " ", "")), "q="); ok {
			if f, err := strconv.ParseFloat(v, 64); err == nil && f >= 0 && f <= 1 {
				weight = f
			} else {
				weight = 0
			}
		}
		switch coding = strings.ToLower(strings.TrimSpace(coding)); {
		case coding == name, coding == "x-gzip" && name == "gzip":
			q, named = weight, true
		case coding == "*" && !named:
			q = weight
		case coding == "identity":
			identity = weight
		}
	}
	return q, identity
}

// A file is an open one that can seek.
type file struct {
	io.ReadSeeker
	io.Closer
	size     int64
	modified time.Time
}

func (h *handler) open(name string) (*file, error) {
	f, err := h.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	opened, err := newFile(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return opened, nil
}

func newFile(f fs.File) (*file, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("no longer a regular file")
	}
	opened := &file{Closer: f, size: info.Size(), modified: info.ModTime()}
	var ok bool
	if opened.ReadSeeker, ok = f.(io.ReadSeeker); ok {
		return opened, nil
	}
	data, err := readUpTo(f, opened.size, maxRead)
	if err != nil {
		return nil, err
	}
	opened.ReadSeeker, opened.size = bytes.NewReader(data), int64(len(data))
	return opened, nil
}

// readUpTo reads r, which is said to be of this size, to its end, if that comes
// within limit.
func readUpTo(r io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("larger than %d MiB", limit>>20)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d MiB", limit>>20)
	}
	return data, err
}

// etag returns a digest of f's content, made once for each state of the file.
// f is then anywhere: ServeContent seeks. A larger file has no ETag, and goes by
// its time.
func (h *handler) etag(name string, f *file) (string, error) {
	if f.size > maxRead {
		return "", nil
	}
	return h.etags.get(name, f.size, f.modified, func() (string, error) {
		digest := sha256.New()
		if _, err := io.Copy(digest, f.ReadSeeker); err != nil {
			return "", err
		}
		return `"` + base64.RawURLEncoding.EncodeToString(digest.Sum(nil)[:16]) + `"`, nil
	})
}

// A memo keeps what was made of files, for as long as they stay the same. It is
// emptied when it is full; clients can't name more files than there are.
type memo[T any] struct {
	max     int
	mu      sync.Mutex
	entries map[string]*memoEntry[T]
}

type memoEntry[T any] struct {
	size     int64
	modified time.Time
	once     sync.Once
	value    T
	err      error
}

// get returns what build makes of a file in this state. Those who ask meanwhile
// wait for it. An error is not kept.
func (m *memo[T]) get(name string, size int64, modified time.Time, build func() (T, error)) (T, error) {
	m.mu.Lock()
	e := m.entries[name]
	if e == nil || e.size != size || !e.modified.Equal(modified) {
		if m.entries == nil || len(m.entries) >= m.max {
			m.entries = make(map[string]*memoEntry[T])
		}
		e = &memoEntry[T]{size: size, modified: modified}
		m.entries[name] = e
	}
	m.mu.Unlock()
	e.once.Do(func() { e.value, e.err = build() })
	if e.err != nil {
		m.mu.Lock()
		if m.entries[name] == e {
			delete(m.entries, name)
		}
		m.mu.Unlock()
	}
	return e.value, e.err
}
