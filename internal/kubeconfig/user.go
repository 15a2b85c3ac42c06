package kubeconfig

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// UserFile returns the kubeconfig of the person who typed the command: the first file of $KUBECONFIG that exists (or its first), else
// ~/.kube/config; with sudo, that of the person behind it, and who shall own it.
func UserFile(getenv func(string) string) (path string, owner Owner) {
	home, _ := os.UserHomeDir()
	if name := getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		if u, err := user.Lookup(name); err == nil {
			uid, err1 := strconv.Atoi(u.Uid)
			gid, err2 := strconv.Atoi(u.Gid)
			if err1 == nil && err2 == nil {
				home, owner = u.HomeDir, Owner{Set: true, UID: uid, GID: gid}
			}
		}
	}
	list := filepath.SplitList(getenv("KUBECONFIG"))
	first := ""
	for _, p := range list {
		if p == "" {
			continue
		}
		if _, err := os.Stat(p); err == nil {
			return p, owner
		}
		if first == "" {
			first = p
		}
	}
	if first != "" {
		return first, owner
	}
	if home == "" {
		return "", owner
	}
	return filepath.Join(home, ".kube", "config"), owner
}

func ownerOf(info fs.FileInfo) Owner {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return Owner{Set: true, UID: int(st.Uid), GID: int(st.Gid)}
	}
	return Owner{}
}
