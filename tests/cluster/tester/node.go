// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The pod that runs these shares the node's process namespace: process 1 is the node's.
const host = "/proc/1/root"

type process struct {
	Pid   int            `json:"pid"`
	Name  string         `json:"name"`
	RssKb int            `json:"rssKb"`
	Anon  int            `json:"anonKb"`
	Fds   map[string]int `json:"fds"`
}

// The standard library has no name for it.
var setns = map[string]uintptr{"amd64": 308, "arm64": 268}[runtime.GOARCH]

// inspect fails for a process that has just ended.
func inspect(pid int) (process, error) {
	p := process{Pid: pid, Fds: map[string]int{}}
	dir := fmt.Sprintf("/proc/%d/", pid)
	text, err := os.ReadFile(dir + "status")
	if err != nil {
		return p, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "Name:":
			p.Name = f[1]
		case "VmRSS:":
			p.RssKb, _ = strconv.Atoi(f[1])
		case "RssAnon:":
			p.Anon, _ = strconv.Atoi(f[1])
		}
	}
	links, err := os.ReadDir(dir + "fd")
	if err != nil {
		return p, err
	}
	istiod := toIstiod(dir)
	spaces := map[string]bool{}
	for _, l := range links {
		to, err := os.Readlink(dir + "fd/" + l.Name())
		if err != nil {
			continue
		}
		what := "file"
		if n := strings.Index(to, ":"); n > 0 && !strings.HasPrefix(to, "/") {
			what = to[:n]
		}
		// Connections to istiod come and go by rules of their own.
		if istiod[to] {
			what = "istiod"
		}
		// Several handles of one namespace are one: threads keep one of their own.
		if what == "net" && spaces[to] {
			continue
		}
		spaces[to] = true
		p.Fds[what]++
	}
	return p, nil
}

// toIstiod returns the sockets of a process's network namespace that are connected to an istiod, named as in /proc/PID/fd.
func toIstiod(dir string) map[string]bool {
	found := map[string]bool{}
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(dir + "net/" + name)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(text), "\n")[1:] {
			// sl, local address, remote address, state, queues, timer, retransmissions, uid, timeout, inode
			if f := strings.Fields(line); len(f) > 9 && strings.HasSuffix(f[2], ":3AA4") { // 15012
				found["socket:["+f[9]+"]"] = true
			}
		}
	}
	return found
}

func node([]string) error {
	var found []process
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range pids {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		p, err := inspect(pid)
		if err == nil && (p.Name == "ambient-agent" || p.Name == "ztunnel") {
			found = append(found, p)
		}
	}
	names := func(pattern string) []string {
		paths, _ := filepath.Glob(host + pattern)
		for i := range paths {
			paths[i] = filepath.Base(paths[i])
		}
		return paths
	}
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	veths := []string{}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "veth") {
			veths = append(veths, l.Name)
		}
	}
	own, err := space()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"processes": found, "netns": names("/run/netns/*"), "veths": veths, "own": own,
		"journal": names("/run/istio-cni/attachments/*"),
		"chain":   names("/etc/cni/net.d/*"), "plugins": names("/opt/cni/bin/ambient*"),
	})
}

// status asks through the node's file system: the agent may be a pod or a service.
func status([]string) error {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		Dial: func(string, string) (net.Conn, error) {
			return net.Dial("unix", host+"/run/istio-cni/pluginevent.sock")
		}}}
	r, err := c.Get("http://agent/v1/status")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

type netspace struct {
	Tables    []string `json:"tables"`    // nftables
	Listeners []int    `json:"listeners"` // TCP
	Rules     []string `json:"rules"`     // of policy routing, beyond the usual three
}

func netns(args []string) error {
	fd, err := os.Open("/proc/" + argument(args, "self") + "/ns/net")
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if _, _, e := syscall.RawSyscall(setns, fd.Fd(), syscall.CLONE_NEWNET, 0); e != 0 {
		return e
	}
	s, err := space()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

// space describes the calling thread's network namespace.
func space() (netspace, error) {
	s := netspace{Tables: []string{}, Listeners: []int{}, Rules: []string{}}
	// nfnetlink: subsystem 10 (nftables), message 1 (NFT_MSG_GETTABLE); attribute 1 is the name.
	err := dump(syscall.NETLINK_NETFILTER, 10<<8|1, []byte{0, 0, 0, 0}, 4, func(attr uint16, v []byte) {
		if attr == 1 {
			s.Tables = append(s.Tables, strings.TrimRight(string(v), "\x00"))
		}
	})
	if err != nil {
		return s, fmt.Errorf("nftables: %w", err)
	}
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		head := make([]byte, 12) // struct fib_rule_hdr
		head[0] = family
		err = dump(syscall.NETLINK_ROUTE, syscall.RTM_GETRULE, head, 12, func(attr uint16, v []byte) {
			// FRA_PRIORITY; the kernel's own are 0, 32766 and 32767 (and 0 has no attribute).
			if attr == 6 && len(v) == 4 {
				if n := binary.NativeEndian.Uint32(v); n != 32766 && n != 32767 {
					s.Rules = append(s.Rules, fmt.Sprintf("%d:%d", family, n))
				}
			}
		})
		if err != nil {
			return s, fmt.Errorf("rules: %w", err)
		}
	}
	seen := map[int]bool{}
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			continue // no IPv6
		}
		for _, line := range strings.Split(string(text), "\n")[1:] {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" {
				continue
			}
			port, err := strconv.ParseInt(f[1][strings.LastIndex(f[1], ":")+1:], 16, 32)
			if err == nil && !seen[int(port)] {
				seen[int(port)] = true
				s.Listeners = append(s.Listeners, int(port))
			}
		}
	}
	return s, nil
}

// dump asks netlink for all objects of a kind; @skip: length of the header before the attributes.
func dump(protocol, kind int, head []byte, skip int, each func(attr uint16, value []byte)) error {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	msg := make([]byte, syscall.NLMSG_HDRLEN, 64)
	binary.NativeEndian.PutUint32(msg[0:], uint32(syscall.NLMSG_HDRLEN+len(head)))
	binary.NativeEndian.PutUint16(msg[4:], uint16(kind))
	binary.NativeEndian.PutUint16(msg[6:], syscall.NLM_F_REQUEST|syscall.NLM_F_DUMP)
	msg = append(msg, head...)
	if err = syscall.Sendto(fd, msg, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		all, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range all {
			switch m.Header.Type {
			case syscall.NLMSG_DONE:
				return nil
			case syscall.NLMSG_ERROR:
				return fmt.Errorf("netlink error %d", -int32(binary.NativeEndian.Uint32(m.Data)))
			}
			for d := m.Data[min(skip, len(m.Data)):]; len(d) >= 4; {
				l := int(binary.NativeEndian.Uint16(d))
				if l < 4 || l > len(d) {
					break
				}
				each(binary.NativeEndian.Uint16(d[2:])&0x3fff, d[4:l])
				d = d[min((l+3)&^3, len(d)):]
			}
		}
	}
}

// capture writes whole packets as a pcap file (link type Ethernet). It prints "capturing" once it
// does, and the number of packets at its end: after the time, or once a file of that name with ".stop" is there and all that
// came before is written.
func capture(args []string) error {
	fs := flag.NewFlagSet("capture", flag.ExitOnError)
	iface := fs.String("i", "eth0", "interface")
	d := fs.Duration("d", 10*time.Second, "how long")
	fs.Parse(args)
	if fs.NArg() != 1 {
		return errors.New("capture: name a file")
	}
	link, err := net.InterfaceByName(*iface)
	if err != nil {
		return err
	}
	const all = 0x0003 // ETH_P_ALL
	swapped := uint16(all<<8 | all>>8)
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, int(swapped))
	if err != nil {
		return err
	}
	if err = syscall.Bind(fd, &syscall.SockaddrLinklayer{Protocol: swapped, Ifindex: link.Index}); err != nil {
		return err
	}
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 32<<20); err != nil {
		return err
	}
	wait := syscall.NsecToTimeval((50 * time.Millisecond).Nanoseconds())
	if err = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &wait); err != nil {
		return err
	}
	out, err := os.Create(fs.Arg(0))
	if err != nil {
		return err
	}
	defer out.Close()
	le := binary.LittleEndian
	head := le.AppendUint32(nil, 0xa1b2c3d4)
	head = le.AppendUint16(le.AppendUint16(head, 2), 4)
	head = le.AppendUint32(le.AppendUint32(head, 0), 0)
	head = le.AppendUint32(le.AppendUint32(head, 1<<18), 1)
	if _, err = out.Write(head); err != nil {
		return err
	}
	fmt.Println("capturing", now())
	buf, count, told := make([]byte, 1<<18), 0, false
	looked := time.Now()
	for end := looked.Add(*d); time.Now().Before(end); {
		if !told && time.Since(looked) > 100*time.Millisecond {
			looked = time.Now()
			if _, err = os.Stat(fs.Arg(0) + ".stop"); err == nil {
				told, end = true, looked.Add(5*time.Second)
			}
		}
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err == syscall.EAGAIN && told {
			break
		}
		if err == syscall.EAGAIN || err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		t := time.Now()
		rec := le.AppendUint32(nil, uint32(t.Unix()))
		rec = le.AppendUint32(rec, uint32(t.Nanosecond()/1000))
		rec = le.AppendUint32(le.AppendUint32(rec, uint32(n)), uint32(n))
		if _, err = out.Write(append(rec, buf[:n]...)); err != nil {
			return err
		}
		count++
	}
	fmt.Println("packets", count)
	return nil
}
