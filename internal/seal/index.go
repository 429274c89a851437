package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// What can be read and found without the browser's cookie: tags, by which a
// subject's sessions are found, and the notes that lie there. Both are under
// the key ring alone. They hold no token.

// Tag returns the tag under which sessions that have this value of that kind
// are filed: a keyed hash, which tells nothing of it. It is under the key of
// id, so that a session is found as long as that key is in the ring.
func (id *ID) Tag(kind, value string) string { return id.key.tagOf(kind, value) }

// Tags returns the tags of a value under every key of the ring.
func (r *Ring) Tags(kind, value string) []string {
	tags := make([]string, len(r.keys))
	for i, k := range r.keys {
		tags[i] = k.tagOf(kind, value)
	}
	return tags
}

func (k *key) tagOf(kind, value string) string {
	var mac [32]byte
	k.tag.sum(mac[:], []byte(kind+"\x00"+value))
	return "t" + base64.RawURLEncoding.EncodeToString(mac[:])
}

// Once returns, for every key of the ring, the key of the record that marks a
// value as used up, such as a logout token's jti.
func (r *Ring) Once(kind, value string) []string {
	keys := make([]string, len(r.keys))
	for i, tag := range r.Tags("once "+kind, value) {
		keys[i] = "j" + tag[1:]
	}
	return keys
}

// A note is key ID 4 ‖ nonce 12 ‖ the text, sealed with AES-256-GCM. Additional
// data is the tag and the record key that it is filed under.
const noteHeader = 4 + nonceSize

// MaxNote is the length of the longest text that fits a note of 256 bytes.
const MaxNote = 256 - noteHeader - tagSize

// SealNote seals text for the place where it will lie.
func (id *ID) SealNote(tag, recordKey string, text []byte) []byte {
	note := make([]byte, noteHeader, noteHeader+len(text)+tagSize)
	copy(note, id.key.id[:])
	rand.Read(note[4:])
	return id.key.meta.Seal(note, note[4:noteHeader], text, []byte(tag+recordKey))
}

// OpenNote opens what SealNote made for the same place under a key of the ring.
func (r *Ring) OpenNote(tag, recordKey string, note []byte) (text []byte, ok bool) {
	if len(note) < noteHeader {
		return nil, false
	}
	k := r.byID(note[:4])
	if k == nil {
		return nil, false
	}
	text, err := k.meta.Open(nil, note[4:noteHeader], note[noteHeader:], []byte(tag+recordKey))
	return text, err == nil
}

// Handle returns the name by which a record's session is known to its user and
// to administrators. It opens nothing.
func Handle(recordKey string) string {
	digest := sha256.Sum256([]byte("bff handle\x00" + recordKey))
	return base64.RawURLEncoding.EncodeToString(digest[:12])
}
