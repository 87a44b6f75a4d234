package wire

import "sync"

const (
	smallBuffer = 1 << 10  // what an idle client costs
	bigBuffer   = 32 << 10 // what content is read through
	maxLine     = 16 << 10
)

var bigBuffers = sync.Pool{New: func() any { return new([bigBuffer]byte) }}

// input is what was read from the client and not used yet. Most command lines
// fit the small buffer; the big one is borrowed while there is content or a
// long line.
type input struct {
	small [smallBuffer]byte
	big   *[bigBuffer]byte
	r, w  int
}

func (in *input) buf() []byte {
	if in.big != nil {
		return in.big[:]
	}
	return in.small[:]
}

func (in *input) bytes() []byte { return in.buf()[in.r:in.w] }

func (in *input) empty() bool { return in.r == in.w }

func (in *input) skip(n int) {
	if in.r += n; in.empty() {
		in.r, in.w = 0, 0
	}
}

// room is where the next octets go. There always is some, since no line is as
// long as the big buffer.
func (in *input) room() []byte {
	if in.w == len(in.buf()) && in.r > 0 {
		in.w = copy(in.buf(), in.bytes())
		in.r = 0
	}
	if in.w == len(in.buf()) {
		in.grow()
	}
	return in.buf()[in.w:]
}

func (in *input) grow() {
	if in.big != nil {
		return
	}
	big := bigBuffers.Get().(*[bigBuffer]byte)
	in.w = copy(big[:], in.bytes())
	in.r, in.big = 0, big
}

// release gives the big buffer back while there is nothing in it.
func (in *input) release() {
	if in.big != nil && in.empty() {
		bigBuffers.Put(in.big)
		in.big, in.r, in.w = nil, 0, 0
	}
}

// drop forgets what is left.
func (in *input) drop() {
	in.r, in.w = 0, 0
	in.release()
}
