package hello

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// askTimeout bounds one question, the look-up of the name included.
const askTimeout = 10 * time.Second

// Ask is the command `ask URL [TIMES]`: it asks so often, once unless told otherwise, by a connection each, and writes the answers to out. By it, a person sees from
// within a pod who answers at a name. It gives the exit code: 1 where an answer failed, 2 for arguments that cannot be.
func Ask(ctx context.Context, args []string, out, errs io.Writer) int {
	times := 1
	if len(args) == 2 {
		var err error
		if times, err = strconv.Atoi(args[1]); err != nil || times < 1 {
			times = 0
		}
	}
	if len(args) < 1 || len(args) > 2 || times == 0 {
		fmt.Fprintln(errs, "usage: ask URL [TIMES]")
		return 2
	}
	web := &http.Client{Timeout: askTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	for range times {
		if err := ask(ctx, web, args[0], out); err != nil {
			fmt.Fprintln(errs, "ask:", err)
			return 1
		}
	}
	return 0
}

func ask(ctx context.Context, web *http.Client, url string, out io.Writer) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "text/plain")
	response, err := web.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}
