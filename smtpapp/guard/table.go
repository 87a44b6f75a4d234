package guard

import "container/list"

// A table remembers so many things and no more: what was not asked for the
// longest time makes room.
type table[K comparable, V any] struct {
	max   int
	items map[K]*list.Element
	order *list.List // of item[K, V]; the latest first
}

type item[K comparable, V any] struct {
	key   K
	value *V
}

func newTable[K comparable, V any](limit int) *table[K, V] {
	return &table[K, V]{max: limit, items: map[K]*list.Element{}, order: list.New()}
}

// peek returns what is known of k, or nil, without a claim to be kept longer.
func (t *table[K, V]) peek(k K) *V {
	if e := t.items[k]; e != nil {
		return e.Value.(item[K, V]).value
	}
	return nil
}

// at returns what is known of k, which it makes if need be.
func (t *table[K, V]) at(k K) *V {
	if e := t.items[k]; e != nil {
		t.order.MoveToFront(e)
		return e.Value.(item[K, V]).value
	}
	if len(t.items) >= t.max {
		t.drop(t.order.Back().Value.(item[K, V]).key)
	}
	v := new(V)
	t.items[k] = t.order.PushFront(item[K, V]{k, v})
	return v
}

func (t *table[K, V]) drop(k K) {
	if e := t.items[k]; e != nil {
		t.order.Remove(e)
		delete(t.items, k)
	}
}

// each calls f for all; f may drop.
func (t *table[K, V]) each(f func(K, *V)) {
	for e := t.order.Front(); e != nil; {
		i := e.Value.(item[K, V])
		e = e.Next()
		f(i.key, i.value)
	}
}
