package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
	"k8s.io/kubernetes/pkg/kubelet/cri/remote"
)

const crictlUsage = "usage: crictl [-r ENDPOINT] pull IMAGE | images [-o json] | inspecti IMAGE | rmi IMAGE | ps | pods"

// crictl is the small part of the program of that name which pulls and lists over the container
// runtime interface; it keeps that program's words and exit codes.
func crictl(args []string) error {
	endpoint := "unix:///run/k3s/containerd/containerd.sock"
	if value := os.Getenv("CONTAINER_RUNTIME_ENDPOINT"); value != "" {
		endpoint = value
	}
	if len(args) > 1 && (args[0] == "-r" || args[0] == "--runtime-endpoint") {
		endpoint = args[1]
		args = args[2:]
	}
	if len(args) < 1 {
		return errors.New(crictlUsage)
	}
	// Long, for a pull is one call.
	images, err := remote.NewRemoteImageService(endpoint, 2*time.Hour)
	if err != nil {
		return fmt.Errorf("the container runtime does not answer at %s: %w", endpoint, err)
	}
	runtime, err := remote.NewRemoteRuntimeService(endpoint, 30*time.Second)
	if err != nil {
		return fmt.Errorf("the container runtime does not answer at %s: %w", endpoint, err)
	}
	verb, rest := args[0], args[1:]
	one := func() (*cri.ImageSpec, error) {
		if len(rest) != 1 {
			return nil, errors.New(crictlUsage)
		}
		return &cri.ImageSpec{Image: rest[0]}, nil
	}
	switch verb {
	case "pull":
		image, err := one()
		if err != nil {
			return err
		}
		reference, err := images.PullImage(image, nil, nil)
		if err != nil {
			return fmt.Errorf("pulling image %s: %w", image.Image, err)
		}
		fmt.Printf("Image is up to date for %s\n", reference)
	case "rmi":
		image, err := one()
		if err != nil {
			return err
		}
		return images.RemoveImage(image)
	case "inspecti":
		image, err := one()
		if err != nil {
			return err
		}
		status, err := images.ImageStatus(image)
		if err != nil {
			return err
		}
		if status == nil {
			return fmt.Errorf("no such image %q present", image.Image)
		}
		return asJSON(map[string]interface{}{"status": status})
	case "images":
		list, err := images.ListImages(nil)
		if err != nil {
			return err
		}
		if len(rest) == 2 && rest[0] == "-o" && rest[1] == "json" {
			return asJSON(map[string]interface{}{"images": list})
		}
		rows := [][]interface{}{{"IMAGE", "IMAGE ID", "SIZE"}}
		for _, image := range list {
			for _, tag := range image.RepoTags {
				rows = append(rows, []interface{}{tag, image.Id, image.Size_})
			}
		}
		return table(rows)
	case "ps":
		list, err := runtime.ListContainers(nil)
		if err != nil {
			return err
		}
		rows := [][]interface{}{{"CONTAINER", "STATE", "NAME", "POD ID"}}
		for _, container := range list {
			rows = append(rows, []interface{}{container.Id, container.State, container.Metadata.Name, container.PodSandboxId})
		}
		return table(rows)
	case "pods":
		list, err := runtime.ListPodSandbox(nil)
		if err != nil {
			return err
		}
		rows := [][]interface{}{{"POD ID", "STATE", "NAME", "NAMESPACE"}}
		for _, pod := range list {
			rows = append(rows, []interface{}{pod.Id, pod.State, pod.Metadata.Name, pod.Metadata.Namespace})
		}
		return table(rows)
	default:
		return errors.New(crictlUsage)
	}
	return nil
}

func asJSON(value interface{}) error {
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(value)
}

func table(rows [][]interface{}) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 4, 3, ' ', 0)
	for _, row := range rows {
		for column, cell := range row {
			if column > 0 {
				fmt.Fprint(out, "\t")
			}
			fmt.Fprint(out, cell)
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}
