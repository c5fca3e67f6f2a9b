// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// Messages are rewritten as they are on the wire, by field numbers: the types themselves would be hundreds of packages.
// The numbers are those of Envoy's API v3.
const (
	discoveryResources = 2 // DiscoveryResponse.resources (Any), DeltaDiscoveryResponse.resources (Resource)
	resourceAny        = 2 // Resource.resource
	anyType, anyValue  = 1, 2
)

// where names, for each type, the fields that hold more types, and those that hold filters with the field of their configuration.
type where struct {
	inner   map[protowire.Number]*where
	filters map[protowire.Number]protowire.Number
}

var chain = &where{filters: map[protowire.Number]protowire.Number{3: 4}} // FilterChain.filters, Filter.typed_config

var types = map[string]*where{
	"envoy.config.listener.v3.Listener": {inner: map[protowire.Number]*where{3: chain, 25: chain}}, // filter_chains, default_filter_chain
	"envoy.config.cluster.v3.Cluster": {filters: map[protowire.Number]protowire.Number{40: 2}, // filters, typed_config
		inner: map[protowire.Number]*where{36: {inner: map[protowire.Number]*where{2: {}}}}}, // typed_extension_protocol_options, the map's value
	"envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": {
		filters: map[protowire.Number]protowire.Number{5: 4}}, // http_filters, typed_config
	"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
		filters: map[protowire.Number]protowire.Number{6: 4}}, // http_filters, typed_config
}

// each calls @fn for every field and puts together what it returns (nil: the field is left out). Bytes that are no message come back
// as they are.
func each(msg []byte, fn func(n protowire.Number, t protowire.Type, field, value []byte) []byte) []byte {
	out := make([]byte, 0, len(msg))
	for rest := msg; len(rest) > 0; {
		n, t, tag := protowire.ConsumeTag(rest)
		if tag < 0 {
			return msg
		}
		size := protowire.ConsumeFieldValue(n, t, rest[tag:])
		if size < 0 {
			return msg
		}
		field := rest[:tag+size]
		var value []byte
		if t == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(rest[tag:])
		}
		out = append(out, fn(n, t, field, value)...)
		rest = rest[tag+size:]
	}
	return out
}

func bytesField(n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), value)
}

// field returns the last value of a field of bytes; nil when there is none.
func field(msg []byte, wanted protowire.Number) (found []byte) {
	each(msg, func(n protowire.Number, t protowire.Type, f, value []byte) []byte {
		if n == wanted && t == protowire.BytesType {
			found = value
		}
		return nil
	})
	return found
}

// name is a type's name without the URL's host; of a TypedStruct that which it stands for.
func name(any []byte) string {
	url := string(field(any, anyType))
	if strings.HasSuffix(url, ".TypedStruct") {
		url = string(field(field(any, anyValue), anyType))
	}
	return url[strings.LastIndex(url, "/")+1:]
}

var leftOut sync.Map

// known tells whether an Envoy without Istio's own extensions can have a filter; what it cannot have is said once in the log.
func known(config []byte) bool {
	n := name(config)
	if n == "" || (strings.HasPrefix(n, "envoy.") && !strings.HasPrefix(n, "envoy.tcp.metadataexchange.")) {
		return true
	}
	if _, said := leftOut.LoadOrStore(n, true); !said {
		fmt.Fprintln(os.Stderr, "envoy: left out of what istiod sends: "+n)
	}
	return false
}

func rewriteAny(any []byte) []byte {
	w := types[name(any)]
	if w == nil || strings.HasSuffix(string(field(any, anyType)), ".TypedStruct") {
		return any
	}
	return each(any, func(n protowire.Number, t protowire.Type, f, value []byte) []byte {
		if n == anyValue && t == protowire.BytesType {
			return bytesField(n, rewrite(value, w))
		}
		return f
	})
}

func rewrite(msg []byte, w *where) []byte {
	if w.inner == nil && w.filters == nil { // an Any
		return rewriteAny(msg)
	}
	return each(msg, func(n protowire.Number, t protowire.Type, f, value []byte) []byte {
		if t != protowire.BytesType {
			return f
		}
		if config := w.filters[n]; config != 0 {
			if !known(field(value, config)) {
				return nil
			}
			return bytesField(n, each(value, func(m protowire.Number, t protowire.Type, f, inner []byte) []byte {
				if m == config && t == protowire.BytesType {
					return bytesField(m, rewriteAny(inner))
				}
				return f
			}))
		}
		if more := w.inner[n]; more != nil {
			return bytesField(n, rewrite(value, more))
		}
		return f
	})
}

// filter takes what an Envoy without Istio's extensions refuses out of a DiscoveryResponse or DeltaDiscoveryResponse.
func filter(response []byte, delta bool) []byte {
	// The one object factory of Istio's that has a twin; the names have the same length.
	response = bytes.ReplaceAll(response, []byte("istio.hashable_string"), []byte("envoy.hashable_string"))
	return each(response, func(n protowire.Number, t protowire.Type, f, value []byte) []byte {
		if n != discoveryResources || t != protowire.BytesType {
			return f
		}
		if !delta {
			return bytesField(n, rewriteAny(value))
		}
		return bytesField(n, each(value, func(m protowire.Number, t protowire.Type, f, inner []byte) []byte {
			if m == resourceAny && t == protowire.BytesType {
				return bytesField(m, rewriteAny(inner))
			}
			return f
		}))
	})
}
