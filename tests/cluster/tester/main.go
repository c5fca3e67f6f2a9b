// SPDX-License-Identifier: Apache-2.0

// The program in the pods of the conformance tests, without a library of others:
//
//	tester pause                          waits for ever and reaps (the sandbox's own process)
//	tester serve [-c CERT -k KEY] [PORT]  HTTP or HTTPS: answers with the host's name and the client's address
//	tester echo [PORT]                    TCP: gives every byte back
//	tester get [-n N] [-t 2s] URL         HTTP, a new connection each; exit status 1 if one failed
//	tester load [-r 200] [-d 10s] URL     HTTP, new connections at a rate; a JSON line at the end
//	tester changes [-t 5s] URL            HTTP, new connections; a line when what comes of them changes
//	tester talk ADDRESS                   one connection, a line every 100 ms which must come back
//	tester shout ADDRESS                  dials from its first instruction, again and again
//	tester capture [-i eth0] -d 10s FILE  writes what passes an interface, as pcap, until FILE.stop is there
//	tester node                           what a node holds: processes, namespaces, links (JSON)
//	tester netns PID                      what a process's network namespace holds (JSON)
//	tester status                         what the node's agent says (docs/agent-api.md)
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var verbs = map[string]func(args []string) error{
	"pause": pause, "serve": serve, "echo": echo, "get": get, "load": load, "changes": changes, "talk": talk, "shout": shout,
	"capture": capture, "node": node, "netns": netns, "status": status,
}

func main() {
	if len(os.Args) > 1 {
		if verb, found := verbs[os.Args[1]]; found {
			if err := verb(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "tester: "+err.Error())
				os.Exit(1)
			}
			return
		}
	}
	fmt.Fprintln(os.Stderr, "usage: tester pause|serve|echo|get|load|changes|talk|shout|capture|node|netns|status ...")
	os.Exit(2)
}

// pause ends on SIGTERM; as process 1 of a sandbox it inherits orphans.
func pause([]string) error {
	end, child := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(child, syscall.SIGCHLD)
	for {
		select {
		case <-end:
			return nil
		case <-child:
			for {
				if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

func argument(args []string, otherwise string) string {
	if len(args) > 0 {
		return args[0]
	}
	return otherwise
}

func now() string { return time.Now().UTC().Format("15:04:05.000") }
