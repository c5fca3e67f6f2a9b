// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
)

func serve(args []string) error {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	cert := fs.String("c", "", "certificate: TLS and nothing else")
	key := fs.String("k", "", "its key")
	fs.Parse(args)
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	address := ":" + argument(fs.Args(), "8080")
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(now(), r.Method, r.URL.Path, "from", r.RemoteAddr)
		how := ""
		if r.TLS != nil {
			how = "by TLS for " + r.TLS.ServerName + " "
		}
		fmt.Fprintf(w, "hello from %s to %s %sPLAINTEXT-IS-VISIBLE\n", host, r.RemoteAddr, how)
	})
	if *cert != "" {
		return http.ListenAndServeTLS(address, *cert, *key, handler)
	}
	return http.ListenAndServe(address, handler)
}

func echo(args []string) error {
	l, err := net.Listen("tcp", ":"+argument(args, "9090"))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}
