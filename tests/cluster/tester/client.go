// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

func client(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
}

func get(args []string) error {
	fs := flag.NewFlagSet("get", flag.ExitOnError)
	n := fs.Int("n", 1, "requests")
	t := fs.Duration("t", 2*time.Second, "limit of one request")
	fs.Parse(args)
	bad := 0
	for i := 0; i < *n; i++ {
		start := time.Now()
		r, err := client(*t).Get(argument(fs.Args(), ""))
		if err != nil {
			fmt.Println(kind(err), err)
			bad++
			continue
		}
		body, err := io.ReadAll(r.Body)
		r.Body.Close()
		fmt.Printf("%d %.1fms %s", r.StatusCode, float64(time.Since(start).Microseconds())/1000, body)
		if err != nil || r.StatusCode != http.StatusOK {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d failed", bad, *n)
	}
	return nil
}

// kind names the ways in which a connection fails that the tests tell apart.
func kind(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "other"
}

type tally struct {
	sync.Mutex
	Count map[string]int `json:"count"`
	First string         `json:"first,omitempty"` // the first failure's text
	// The longest time without an answer, and the slowest answer.
	GapMs     int64 `json:"gapMs"`
	SlowestMs int64 `json:"slowestMs"`
	last      time.Time
}

func (t *tally) add(start time.Time, err error) {
	t.Lock()
	defer t.Unlock()
	if err != nil {
		t.Count[kind(err)]++
		if t.First == "" {
			t.First = now() + " " + err.Error()
		}
		return
	}
	t.Count["ok"]++
	t.GapMs = max(t.GapMs, time.Since(t.last).Milliseconds())
	t.SlowestMs = max(t.SlowestMs, time.Since(start).Milliseconds())
	t.last = time.Now()
}

func load(args []string) error {
	fs := flag.NewFlagSet("load", flag.ExitOnError)
	rate := fs.Int("r", 200, "new connections a second")
	d := fs.Duration("d", 10*time.Second, "how long")
	stop := fs.String("stop", "/tmp/stop", "a file that ends it earlier, by being made")
	t := fs.Duration("t", 30*time.Second, "limit of one request")
	fs.Parse(args)
	url, c := argument(fs.Args(), ""), client(*t)
	sum := &tally{Count: map[string]int{}, last: time.Now()}
	tick, end := time.NewTicker(time.Second/time.Duration(*rate)), time.Now().Add(*d)
	var all sync.WaitGroup
	one := func() {
		defer all.Done()
		start := time.Now()
		r, err := c.Get(url)
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
			r.Body.Close()
			if r.StatusCode != http.StatusOK && err == nil {
				err = errors.New(r.Status)
			}
		}
		sum.add(start, err)
	}
	for time.Now().Before(end) {
		<-tick.C
		if _, err := os.Stat(*stop); err == nil {
			break
		}
		all.Add(1)
		go one()
	}
	all.Wait()
	return json.NewEncoder(os.Stdout).Encode(sum)
}

// changes tells when what comes of a new connection changes: the time (Unix, ms) at which the first such attempt was begun, and its kind.
func changes(args []string) error {
	fs := flag.NewFlagSet("changes", flag.ExitOnError)
	every := fs.Duration("i", 5*time.Millisecond, "pause between attempts")
	stop := fs.String("stop", "/tmp/stop", "a file that ends it, by being made")
	t := fs.Duration("t", 5*time.Second, "limit of one attempt")
	fs.Parse(args)
	url, c, last := argument(fs.Args(), ""), client(*t), ""
	for {
		if _, err := os.Stat(*stop); err == nil {
			return nil
		}
		start := time.Now()
		r, err := c.Get(url)
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
		what := "ok"
		if err != nil {
			what = kind(err)
		} else if r.StatusCode != http.StatusOK {
			what = fmt.Sprint(r.StatusCode)
		}
		if what != last {
			if _, err = fmt.Println(start.UnixMilli(), what); err != nil {
				return err
			}
			last = what
		}
		time.Sleep(*every)
	}
}

// talk prints the number of lines that came back, and how it ended. Until the first line came back it begins anew: a mesh may not
// know yet who talks.
func talk(args []string) error {
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		n, err := converse(argument(args, ""))
		if n > 0 || time.Now().After(end) {
			fmt.Println("ended", now(), kind(err), err)
			return err
		}
		fmt.Println("begins anew", now(), kind(err), err)
	}
}

// converse returns how many lines came back, and what ended it.
func converse(address string) (int, error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	back := bufio.NewReader(c)
	for n := 1; ; n++ {
		line := fmt.Sprintf("PLAINTEXT-IS-VISIBLE %d\n", n)
		if _, err = io.WriteString(c, line); err == nil {
			c.SetReadDeadline(time.Now().Add(60 * time.Second))
			var got string
			if got, err = back.ReadString('\n'); err == nil && got != line {
				err = errors.New("another line came back: " + strings.TrimSpace(got))
			}
		}
		if err != nil {
			return n - 1, err
		}
		fmt.Println("line", n)
		time.Sleep(100 * time.Millisecond)
	}
}

// shout never waits long: whatever lets a packet out too early is found out by it.
func shout(args []string) error {
	address := argument(args, "")
	for n := 1; ; n++ {
		c, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err == nil {
			io.WriteString(c, "GET / HTTP/1.0\r\nX-Mark: PLAINTEXT-IS-VISIBLE\r\n\r\n")
			c.SetReadDeadline(time.Now().Add(2 * time.Second))
			var body []byte
			if body, err = io.ReadAll(c); err == nil && len(body) == 0 {
				err = io.EOF
			}
			c.Close()
		}
		if err != nil {
			fmt.Println("try", n, now(), kind(err), err)
		} else {
			fmt.Println("try", n, now(), "ok")
		}
		time.Sleep(20 * time.Millisecond)
	}
}
