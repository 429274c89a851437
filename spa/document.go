package spa

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// maxDocument bounds a document, since documents are kept in memory.
const maxDocument = 4 << 20

// A document is an HTML file, read.
type document struct {
	text     string
	elements []element
	policy   string   // with the hashes, without a nonce
	scripts  string   // their hashes, as sources with a blank before each
	styles   string   //
	parts    []string // the text, cut at each placeholder; nil without one
}

// document reads a document, once for each state of its file.
func (h *handler) document(name string, info fs.FileInfo) (*document, error) {
	return h.documents.get(name, info.Size(), info.ModTime(), func() (*document, error) {
		f, err := h.fsys.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data, err := readUpTo(f, info.Size(), maxDocument)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		d := &document{text: string(data), elements: scan(string(data))}
		if h.hashes {
			for _, e := range d.elements {
				switch {
				case e.name == "script" && e.runs() && !e.has("src"):
					d.scripts += " " + hashOf(e.text)
				case e.name == "style":
					d.styles += " " + hashOf(e.text)
				}
			}
		}
		d.policy = h.headers.policy.with(d.scripts, d.styles)
		if h.nonce != "" && strings.Contains(d.text, h.nonce) {
			d.parts = strings.Split(d.text, h.nonce)
		}
		return d, nil
	})
}

// hashOf returns the source expression for an inline script or style. The text
// is what the browser's parser makes of the file: line ends are line feeds.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// serveDocument answers with a document. It is never stored: it names the
// scripts of one build, and has a nonce of its own or is the page of somebody
// who is signed in.
func (h *handler) serveDocument(w http.ResponseWriter, r *http.Request, name string, info fs.FileInfo) error {
	d, err := h.document(name, info)
	if err != nil {
		return err
	}
	// The whole page whatever was asked for: nobody has a part of it, or an
	// older one.
	content := &file{ReadSeeker: strings.NewReader(d.text), size: int64(len(d.text))}
	policy := d.policy
	header := w.Header()
	if d.parts != nil {
		nonce := rand.Text()
		source := " 'nonce-" + nonce + "'"
		policy = h.headers.policy.with(source+d.scripts, source+d.styles)
		text := strings.Join(d.parts, nonce)
		content = &file{ReadSeeker: strings.NewReader(text), size: int64(len(text))}
	} else if encoding, varies := h.encoding(r, name, info); varies {
		if encoding.name != "" {
			if content, err = h.open(name + encoding.suffix); err != nil {
				return err
			}
			defer content.Close()
			header.Set("Content-Encoding", encoding.name)
		}
		header.Add("Vary", "Accept-Encoding")
	}
	h.headers.set(header, policy)
	header.Set("Content-Type", typeOf(name))
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", strconv.FormatInt(content.size, 10))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		io.CopyN(w, content, content.size)
	}
	return nil
}

// problems lists what the policy blocks in a document, and what helps.
func (d *document) problems(h *handler) []string {
	p := &h.headers.policy
	var list []string
	say := func(format string, args ...any) {
		if s := fmt.Sprintf(format, args...); !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	if h.nonce != "" && d.parts == nil {
		say("the placeholder %q of Options.Nonce is not in it", h.nonce)
	}
	inlineScripts := p.has("script-src", "'unsafe-inline'")
	inlineStyles := p.has("style-src", "'unsafe-inline'")
	strict := p.has("script-src", "'strict-dynamic'")
	for _, e := range d.elements {
		nonce := h.nonce != "" && e.attributes["nonce"] == h.nonce
		switch {
		case e.name == "script" && e.runs() && !e.has("src") && !inlineScripts && !nonce:
			if !h.hashes {
				say("line %d: an inline script, which the policy blocks; set Options.HashInline or Options.Nonce, or move it into a file", e.line)
			} else if strings.Contains(e.text, "<!--") {
				say("line %d: an inline script with <!-- in it, which browsers read in a way of its own; move it into a file", e.line)
			}
		case e.name == "script" && e.has("src") && strict && !nonce:
			say("line %d: a script without the nonce, which 'strict-dynamic' blocks", e.line)
		case e.name == "style" && !inlineStyles && !nonce && !h.hashes:
			say("line %d: an inline style, which the policy blocks; set Options.HashInline or Options.Nonce, or move it into a file", e.line)
		case e.name == "base" && e.has("href") && len(p.sources["base-uri"]) == 0:
			say(`line %d: a base element, which the policy blocks; add 'self' to Options.Sources["base-uri"]`, e.line)
		}
		for name := range e.attributes {
			switch {
			case name == "style" && !inlineStyles && !p.has("style-src-attr", "'unsafe-inline'"):
				say(`line %d: a style attribute, which the policy blocks; use a class, or add 'unsafe-inline' to Options.Sources["style-src-attr"]`, e.line)
			case isHandler(name) && !inlineScripts && !p.has("script-src-attr", "'unsafe-inline'"):
				say("line %d: the attribute %s, an inline script that the policy blocks and no nonce admits; use addEventListener", e.line, name)
			}
		}
	}
	return list
}

// isHandler reports whether an attribute is an event handler.
func isHandler(name string) bool {
	if len(name) < 5 || !strings.HasPrefix(name, "on") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r < 'a' || r > 'z' })
}

// An element is a start tag, with the text of a script or style.
type element struct {
	name       string
	attributes map[string]string
	text       string
	line       int
}

func (e *element) has(attribute string) bool { _, ok := e.attributes[attribute]; return ok }

// runs reports whether a script element is more than data (HTML, section
// 4.12.1.1).
func (e *element) runs() bool {
	t := strings.ToLower(strings.TrimSpace(e.attributes["type"]))
	switch t {
	case "", "module", "importmap", "speculationrules":
		return true
	}
	return strings.Contains(t, "javascript") || strings.Contains(t, "ecmascript") || t == "text/livescript" || t == "text/jscript"
}

const whitespace = " \t\n\f\r"

// scan returns the start tags of an HTML file. It is no full parser: where it
// errs, a hash fits nothing and the browser blocks what it was for.
func scan(text string) []element {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	var list []element
	line, counted := 1, 0
	for at := 0; ; {
		i := strings.IndexByte(text[at:], '<')
		if i < 0 {
			return list
		}
		at += i
		line += strings.Count(text[counted:at], "\n")
		counted = at
		switch rest := text[at:]; {
		case strings.HasPrefix(rest, "<!--"):
			at += endOfComment(rest)
		case len(rest) > 1 && isLetter(rest[1]):
			e, n, ok := startTag(rest)
			if !ok {
				return list // browsers drop what is cut off
			}
			e.line = line
			at += n
			switch e.name {
			case "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "noscript":
				n = endOfRawText(text[at:], e.name)
				e.text = text[at : at+n]
				at += n
			}
			list = append(list, e)
		case len(rest) > 2 && rest[1] == '/' && isLetter(rest[2]):
			_, n, _ := startTag(rest[1:])
			at += 1 + n
		case len(rest) > 1 && (rest[1] == '!' || rest[1] == '?' || rest[1] == '/'):
			if n := strings.IndexByte(rest, '>'); n >= 0 {
				at += n + 1
			} else {
				return list
			}
		default:
			at++
		}
	}
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// endOfComment returns the length of the comment that s begins with.
func endOfComment(s string) int {
	for _, empty := range []string{"<!-->", "<!--->"} {
		if strings.HasPrefix(s, empty) {
			return len(empty)
		}
	}
	end := len(s)
	for _, mark := range []string{"-->", "--!>"} {
		if i := strings.Index(s[4:], mark); i >= 0 {
			end = min(end, 4+i+len(mark))
		}
	}
	return end
}

// endOfRawText returns where the end tag of the element begins in s, which
// follows its start tag.
func endOfRawText(s, name string) int {
	for at := 0; ; {
		i := strings.Index(s[at:], "</")
		if i < 0 {
			return len(s)
		}
		at += i
		end := at + 2 + len(name)
		if end < len(s) && strings.EqualFold(s[at+2:end], name) && strings.IndexByte(whitespace+"/>", s[end]) >= 0 {
			return at
		}
		at += 2
	}
}

// startTag reads the tag that s begins with, and returns its length and whether
// it has an end. s[0] is what stands before the name.
func startTag(s string) (e element, n int, ok bool) {
	i := 1
	span := func(stop string) string {
		from := i
		for i < len(s) && strings.IndexByte(stop, s[i]) < 0 {
			i++
		}
		return s[from:i]
	}
	e.name = strings.ToLower(span(whitespace + "/>"))
	e.attributes = map[string]string{}
	for {
		for i < len(s) && strings.IndexByte(whitespace+"/", s[i]) >= 0 {
			i++
		}
		if i >= len(s) {
			return e, i, false
		}
		if s[i] == '>' {
			return e, i + 1, true
		}
		from := i
		i++ // even an equals sign begins a name
		span(whitespace + "/>=")
		name := strings.ToLower(s[from:i])
		for i < len(s) && strings.IndexByte(whitespace, s[i]) >= 0 {
			i++
		}
		value := ""
		if i < len(s) && s[i] == '=' {
			i++
			for i < len(s) && strings.IndexByte(whitespace, s[i]) >= 0 {
				i++
			}
			if i < len(s) && (s[i] == '"' || s[i] == '\'') {
				quote := s[i : i+1]
				i++
				value = span(quote)
				i = min(i+1, len(s))
			} else {
				value = span(whitespace + ">")
			}
		}
		if _, twice := e.attributes[name]; !twice {
			e.attributes[name] = value
		}
	}
}
