// A client of the streaming server made of Kubernetes' own packages: what kubectl and crictl do, without a cluster.
//
//	remotecommand exec [-websocket] [-protocols a,b] [-tty] [-size 80x24] [-no-stdin] [-no-stdout] [-no-stderr] URL
//	remotecommand forward [-websocket] URL PORT...
//	remotecommand proxy HOST:PORT
//
// exec joins its own standard streams to the command's and ends with its status, or with 125 after a sentence on
// standard error. forward prints "FROM TO" for each port once it listens, and goes on until its standard input ends.
// proxy does the same with one port, through which it hands requests on to HOST:PORT as a kubelet does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("exec or forward?"))
	}
	switch os.Args[1] {
	case "exec":
		execute(os.Args[2:])
	case "forward":
		forward(os.Args[2:])
	case "proxy":
		serveProxy(os.Args[2])
	default:
		fail(fmt.Errorf("no such verb: %s", os.Args[1]))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(125)
}

// One size of a terminal, and no more.
type fixedSize struct {
	sizes chan remotecommand.TerminalSize
}

func (fixed *fixedSize) Next() *remotecommand.TerminalSize {
	size, more := <-fixed.sizes
	if !more {
		select {}
	}
	return &size
}

func execute(arguments []string) {
	flags := flag.NewFlagSet("exec", flag.ExitOnError)
	websocket := flags.Bool("websocket", false, "go over a WebSocket")
	protocols := flags.String("protocols", "", "offer these")
	tty := flags.Bool("tty", false, "be a terminal")
	size := flags.String("size", "", "of the terminal, columns x rows")
	noStdin := flags.Bool("no-stdin", false, "ask for no standard input")
	noStdout := flags.Bool("no-stdout", false, "ask for no standard output")
	noStderr := flags.Bool("no-stderr", false, "ask for no standard error")
	flags.Parse(arguments)
	executor, err := executorFor(*websocket, *protocols, flags.Arg(0))
	if err != nil {
		fail(err)
	}
	options := remotecommand.StreamOptions{Tty: *tty}
	if !*noStdin {
		options.Stdin = os.Stdin
	}
	if !*noStdout {
		options.Stdout = os.Stdout
	}
	if !*noStderr && !*tty {
		options.Stderr = os.Stderr
	}
	if *size != "" {
		var terminal remotecommand.TerminalSize
		if _, err := fmt.Sscanf(*size, "%dx%d", &terminal.Width, &terminal.Height); err != nil {
			fail(err)
		}
		fixed := &fixedSize{sizes: make(chan remotecommand.TerminalSize, 1)}
		fixed.sizes <- terminal
		close(fixed.sizes)
		options.TerminalSizeQueue = fixed
	}
	err = executor.StreamWithContext(context.Background(), options)
	var exit exec.CodeExitError
	if errors.As(err, &exit) {
		os.Exit(exit.Code)
	}
	if err != nil {
		fail(err)
	}
}

func executorFor(websocket bool, protocols string, address string) (remotecommand.Executor, error) {
	config := &rest.Config{Host: address}
	if websocket {
		if protocols == "" {
			return remotecommand.NewWebSocketExecutor(config, http.MethodGet, address)
		}
		return remotecommand.NewWebSocketExecutorForProtocols(
			config, http.MethodGet, address, strings.Split(protocols, ",")...)
	}
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if protocols == "" {
		return remotecommand.NewSPDYExecutor(config, http.MethodPost, parsed)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewSPDYExecutorForProtocols(
		transport, upgrader, http.MethodPost, parsed, strings.Split(protocols, ",")...)
}

func forward(arguments []string) {
	flags := flag.NewFlagSet("forward", flag.ExitOnError)
	websocket := flags.Bool("websocket", false, "tunnel SPDY through a WebSocket")
	flags.Parse(arguments)
	parsed, err := url.Parse(flags.Arg(0))
	if err != nil {
		fail(err)
	}
	config := &rest.Config{Host: flags.Arg(0)}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := forwarderFor(*websocket, config, parsed, flags.Args()[1:], stop, ready)
	if err != nil {
		fail(err)
	}
	go func() {
		<-ready
		ports, err := forwarder.GetPorts()
		if err != nil {
			fail(err)
		}
		for _, port := range ports {
			fmt.Println(port.Local, port.Remote)
		}
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	if err := forwarder.ForwardPorts(); err != nil {
		fail(err)
	}
}

func forwarderFor(
	websocket bool, config *rest.Config, address *url.URL, ports []string, stop <-chan struct{}, ready chan struct{},
) (*portforward.PortForwarder, error) {
	hosts := []string{"127.0.0.1"}
	if websocket {
		dialer, err := portforward.NewSPDYOverWebsocketDialer(address, config)
		if err != nil {
			return nil, err
		}
		return portforward.NewOnAddresses(dialer, hosts, ports, stop, ready, io.Discard, os.Stderr)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, address)
	return portforward.NewOnAddresses(dialer, hosts, ports, stop, ready, io.Discard, os.Stderr)
}

type complain struct{}

func (complain) Error(writer http.ResponseWriter, _ *http.Request, err error) {
	http.Error(writer, err.Error(), http.StatusInternalServerError)
}

func serveProxy(target string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port, target)
	go http.Serve(listener, http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		location := &url.URL{Scheme: "http", Host: target, Path: request.URL.Path}
		proxy.NewUpgradeAwareHandler(location, nil, false, true, complain{}).ServeHTTP(writer, request)
	}))
	io.Copy(io.Discard, os.Stdin)
}
