// web is the workload of the tests: a small HTTP server whose conduct is set from outside.
//
//	LISTEN       where it listens, ":8080" when unset
//	TEXT         what it answers, the host's name when unset
//	READY_AFTER  how long /ready answers 503, e.g. "3s"
//	CRASH_AFTER  when it ends with exit code 3
//	EAT_MIB      how much memory it takes at once, in MiB
//
// It ends at once on SIGTERM, so that a pod's end costs no grace period.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func setting(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func span(name string) time.Duration {
	value, err := time.ParseDuration(setting(name, "0s"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(2)
	}
	return value
}

func main() {
	started := time.Now()
	host, _ := os.Hostname()
	text, ready := setting("TEXT", host), span("READY_AFTER")
	if after := span("CRASH_AFTER"); after > 0 {
		time.AfterFunc(after, func() { os.Exit(3) })
	}
	eaten, err := strconv.Atoi(setting("EAT_MIB", "0"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "EAT_MIB:", err)
		os.Exit(2)
	}
	memory := make([]byte, eaten<<20)
	for page := 0; page < len(memory); page += 4096 {
		memory[page] = 1
	}
	ends := make(chan os.Signal, 1)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-ends
		os.Exit(0)
	}()
	http.HandleFunc("/ready", func(answer http.ResponseWriter, _ *http.Request) {
		if time.Since(started) < ready {
			answer.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, text)
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(setting("LISTEN", ":8080"), nil))
	os.Exit(1)
}
