// SPDX-License-Identifier: Apache-2.0

// What pilot-agent starts as `envoy`: an Envoy of another maker than Istio, which knows none of Istio's own extensions. It stands
// between the two, takes those out of what istiod sends, and starts the real Envoy (/usr/local/bin/envoy.real) with a bootstrap
// that leads to it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const real = "/usr/local/bin/envoy.real"

// raw leaves messages as they are.
type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

var stream = &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// forward carries one stream between Envoy and pilot-agent.
func forward(there *grpc.ClientConn) grpc.StreamHandler {
	return func(_ any, envoy grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(envoy)
		ctx, cancel := context.WithCancel(envoy.Context())
		defer cancel()
		if md, found := metadata.FromIncomingContext(ctx); found {
			ctx = metadata.NewOutgoingContext(ctx, md)
		}
		agent, err := there.NewStream(ctx, stream, method)
		if err != nil {
			return err
		}
		go func() {
			for {
				var m []byte
				if envoy.RecvMsg(&m) != nil || agent.SendMsg(&m) != nil {
					agent.CloseSend()
					return
				}
			}
		}()
		delta := strings.Contains(method, "Delta")
		for {
			var m []byte
			if err := agent.RecvMsg(&m); err != nil {
				return err
			}
			m = filter(m, delta)
			if err := envoy.SendMsg(&m); err != nil {
				return err
			}
		}
	}
}

// bootstrap writes the changed bootstrap beside the one at @path; @from and @to: the sockets of pilot-agent and of this program.
func bootstrap(path, from, to string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var b map[string]any
	if err = json.Unmarshal(text, &b); err != nil {
		return "", err
	}
	var keep []any
	extensions, _ := b["bootstrap_extensions"].([]any)
	for _, e := range extensions {
		if one, err := json.Marshal(e); err == nil && !strings.Contains(string(one), "/istio.workload.") {
			keep = append(keep, e)
		}
	}
	b["bootstrap_extensions"] = keep
	if text, err = json.Marshal(b); err != nil {
		return "", err
	}
	changed := strings.ReplaceAll(string(text), `"`+from+`"`, `"`+to+`"`)
	return path + ".filtered.json", os.WriteFile(path+".filtered.json", []byte(changed), 0o600)
}

func run(args []string) error {
	for i, a := range args {
		if a != "-c" || i+1 == len(args) {
			continue
		}
		from := "etc/istio/proxy/XDS"
		if _, err := os.Stat(from); err != nil {
			return err
		}
		to := from + ".filtered"
		os.Remove(to)
		listener, err := net.Listen("unix", to)
		if err != nil {
			return err
		}
		there, err := grpc.NewClient("unix:"+from, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(1<<28)))
		if err != nil {
			return err
		}
		server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(forward(there)))
		go server.Serve(listener)
		// As pilot-agent writes it: relative to its working directory, "./etc/...".
		for _, prefix := range []string{"./", "/", ""} {
			if args[i+1], err = bootstrap(args[i+1], prefix+from, prefix+to); err != nil {
				return err
			}
		}
	}
	envoy := exec.Command(real, args...)
	envoy.Stdin, envoy.Stdout, envoy.Stderr = os.Stdin, os.Stdout, os.Stderr
	envoy.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := envoy.Start(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for s := range signals {
			envoy.Process.Signal(s)
		}
	}()
	return envoy.Wait()
}

func main() {
	err := run(append([]string(nil), os.Args[1:]...))
	if exit, is := err.(*exec.ExitError); is {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "envoy: "+err.Error())
		os.Exit(1)
	}
}
