// hyperkube is every part of Kubernetes that the laboratory runs, in one program: the part is
// named by the program's own name or by the first argument. "together FILE" runs several parts
// in one process; each line of FILE is a part's name and its flags, separated by tabs.
package main

import (
	"bufio"
	"crypto/tls"
	goflag "flag"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// withGlobalFlags makes flags known that only some of the parts register themselves.
func withGlobalFlags(command *cobra.Command, logging bool) *cobra.Command {
	pflag.CommandLine.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	if logging {
		pflag.CommandLine.AddGoFlagSet(goflag.CommandLine)
	}
	return command
}

var parts = map[string]func() *cobra.Command{
	"kube-apiserver":          func() *cobra.Command { return apiserver.NewAPIServerCommand() },
	"kube-controller-manager": func() *cobra.Command { return manager.NewControllerManagerCommand() },
	"kube-scheduler":          func() *cobra.Command { return withGlobalFlags(scheduler.NewSchedulerCommand(), false) },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand() },
	"kube-proxy":              func() *cobra.Command { return withGlobalFlags(proxy.NewProxyCommand(), true) },
	"kubectl":                 func() *cobra.Command { return withGlobalFlags(kubectl.NewDefaultKubectlCommand(), true) },
}

// apiServerAnswers waits until the API server of this process lives, which the others need to
// start at once instead of in their own back-off.
func apiServerAnswers(port string) {
	insecure := &tls.Config{InsecureSkipVerify: true}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: insecure}}
	defer client.CloseIdleConnections()
	for {
		if answer, err := client.Get("https://127.0.0.1:" + port + "/livez"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func together(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	ended := make(chan error)
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Split(lines.Text(), "\t")
		build, known := parts[words[0]]
		if !known {
			return fmt.Errorf("%s: no part is named %q", path, words[0])
		}
		// The kubelet reads its flags from here a second time.
		os.Args = words
		command := build()
		command.SetArgs(words[1:])
		go func(name string) { ended <- fmt.Errorf("%s ended: %v", name, command.Execute()) }(words[0])
		if words[0] == "kube-apiserver" {
			port := "6443"
			for _, word := range words {
				if strings.HasPrefix(word, "--secure-port=") {
					port = strings.TrimPrefix(word, "--secure-port=")
				}
			}
			apiServerAnswers(port)
		} else {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return <-ended
}

func main() {
	rand.Seed(time.Now().UnixNano())
	name := filepath.Base(os.Args[0])
	if _, known := parts[name]; !known && len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = os.Args[1:]
	}
	logs.InitLogs()
	defer logs.FlushLogs()
	var err error
	switch build, known := parts[name]; {
	case known:
		err = build().Execute()
	case name == "together" && len(os.Args) == 2:
		err = together(os.Args[1])
		fmt.Fprintln(os.Stderr, err)
	case name == "crictl":
		if err = crictl(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	default:
		var names []string
		for part := range parts {
			names = append(names, part)
		}
		sort.Strings(names)
		err = fmt.Errorf("usage: hyperkube %s|crictl|together FILE", strings.Join(names, "|"))
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil {
		os.Exit(1)
	}
}
