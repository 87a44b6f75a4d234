package caddyopt

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/caddyserver/caddy/v2"
)

// LoadModule loads the module in the named field of host, a json.RawMessage. It
// is T's zero value if there is none.
func LoadModule[T any](ctx caddy.Context, host any, field string) (T, error) {
	var none T
	f, err := rawField[json.RawMessage](host, field)
	if err != nil || len(f) == 0 {
		return none, err
	}
	v, err := ctx.LoadModule(host, field)
	if err != nil {
		return none, err
	}
	return as[T](v, field)
}

// LoadModules loads the modules in the named field of host, a
// []json.RawMessage, in their order.
func LoadModules[T any](ctx caddy.Context, host any, field string) ([]T, error) {
	if _, err := rawField[[]json.RawMessage](host, field); err != nil {
		return nil, err
	}
	v, err := ctx.LoadModule(host, field)
	if err != nil {
		return nil, err
	}
	list, _ := v.([]any)
	out := make([]T, 0, len(list))
	for i, v := range list {
		m, err := as[T](v, fmt.Sprintf("%s[%d]", field, i))
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// LoadMap loads the modules in the named field of host, a
// map[string]json.RawMessage or a caddy.ModuleMap.
func LoadMap[T any](ctx caddy.Context, host any, field string) (map[string]T, error) {
	_, err := rawField[map[string]json.RawMessage](host, field)
	if _, err2 := rawField[caddy.ModuleMap](host, field); err != nil && err2 != nil {
		return nil, err
	}
	v, err := ctx.LoadModule(host, field)
	if err != nil {
		return nil, err
	}
	mods, _ := v.(map[string]any)
	out := make(map[string]T, len(mods))
	for name, v := range mods {
		if out[name], err = as[T](v, field+"."+name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// LoadSets loads the matcher sets in the named field of host, a
// []caddy.ModuleMap. Each set is in the order of its modules' names.
func LoadSets[T any](ctx caddy.Context, host any, field string) ([][]T, error) {
	if _, err := rawField[[]caddy.ModuleMap](host, field); err != nil {
		return nil, err
	}
	v, err := ctx.LoadModule(host, field)
	if err != nil {
		return nil, err
	}
	sets, _ := v.([]map[string]any)
	out := make([][]T, 0, len(sets))
	for _, set := range sets {
		ms := make([]T, 0, len(set))
		for _, name := range sortedKeys(set) {
			m, err := as[T](set[name], field+"."+name)
			if err != nil {
				return nil, err
			}
			ms = append(ms, m)
		}
		out = append(out, ms)
	}
	return out, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// rawField returns a field of *host by its name, which Context.LoadModule
// panics over if it is wrong.
func rawField[T any](host any, field string) (T, error) {
	var none T
	v := reflect.ValueOf(host)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return none, fmt.Errorf("%T is not a pointer to a struct", host)
	}
	f := v.Elem().FieldByName(field)
	if !f.IsValid() {
		return none, fmt.Errorf("%T has no field %s", host, field)
	}
	raw, ok := f.Interface().(T)
	if !ok {
		return none, fmt.Errorf("field %s of %T is not a %s", field, host, reflect.TypeFor[T]())
	}
	return raw, nil
}

func as[T any](v any, where string) (T, error) {
	m, ok := v.(T)
	if !ok {
		return m, fmt.Errorf("%s: module %T is not a %s", where, v, reflect.TypeFor[T]())
	}
	return m, nil
}
