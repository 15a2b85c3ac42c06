package image

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Service answers CRI's image calls from a store.
type Service struct {
	runtimeapi.UnimplementedImageServiceServer
	store *Store
}

// NewService makes CRI's ImageService of a store.
func NewService(store *Store) *Service { return &Service{store: store} }

var _ runtimeapi.ImageServiceServer = (*Service)(nil)

// ListImages lists the images, or the one that the filter names.
func (s *Service) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: s.list(req.GetFilter())}, nil
}

// StreamImages sends what ListImages gives, a few at a time.
func (s *Service) StreamImages(req *runtimeapi.StreamImagesRequest, stream runtimeapi.ImageService_StreamImagesServer) error {
	const each = 100
	images := s.list(req.GetFilter())
	for len(images) > 0 {
		n := min(each, len(images))
		if err := stream.Send(&runtimeapi.StreamImagesResponse{Images: images[:n]}); err != nil {
			return err
		}
		images = images[n:]
	}
	return nil
}

func (s *Service) list(filter *runtimeapi.ImageFilter) []*runtimeapi.Image {
	if ref := filter.GetImage().GetImage(); ref != "" {
		if m, ok := s.store.Resolve(ref); ok {
			return []*runtimeapi.Image{describe(m)}
		}
		return nil
	}
	var images []*runtimeapi.Image
	for _, m := range s.store.List() {
		images = append(images, describe(m))
	}
	return images
}

// ImageStatus describes one image; one that is not here is no error but an empty answer.
func (s *Service) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	m, ok := s.store.Resolve(req.GetImage().GetImage())
	if !ok {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	resp := &runtimeapi.ImageStatusResponse{Image: describe(m)}
	if req.GetVerbose() {
		// The form that crictl inspecti prints.
		info, err := json.Marshal(map[string]any{"imageSpec": m.Config, "layers": m.Layers})
		if err != nil {
			return nil, status.Errorf(code(err), "image %s: %v", m.ID, err)
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

// FromRegistry, as an annotation of the image to pull, has it pulled even if it was loaded.
const FromRegistry = "sampan.dev/from-registry"

// PullImage pulls an image and answers with its ID. A name that was loaded by hand already means what it was loaded as, and no registry is
// asked: its image has no digest of a registry. So `docker save | sampan image load` is all that a pod with pull policy Always, which is what the tag
// latest has by default, needs on a machine without a registry. FromRegistry asks nevertheless.
func (s *Service) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if m, ok := s.store.Resolve(req.GetImage().GetImage()); ok && len(m.RepoDigests) == 0 && req.GetImage().GetAnnotations()[FromRegistry] == "" {
		return &runtimeapi.PullImageResponse{ImageRef: m.ID}, nil
	}
	a := req.GetAuth()
	m, err := s.store.Pull(ctx, req.GetImage().GetImage(), Auth{
		Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(), ServerAddress: a.GetServerAddress(),
	}, nil)
	if err != nil {
		return nil, status.Error(code(err), err.Error())
	}
	return &runtimeapi.PullImageResponse{ImageRef: m.ID}, nil
}

// RemoveImage removes an image by any of its names, all of it.
func (s *Service) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if err := s.store.Remove(req.GetImage().GetImage()); err != nil {
		return nil, status.Error(code(err), err.Error())
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo tells what the images take on disk. The directory that it names changes its modification time with each name that images get or lose, and images/ below it
// with each image that comes or goes: whoever has listed the images need not ask again while both stay.
func (s *Service) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	info, err := s.store.FsInfo()
	if err != nil {
		return nil, status.Error(code(err), err.Error())
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{
		Timestamp:  time.Now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: info.Dir},
		UsedBytes:  &runtimeapi.UInt64Value{Value: info.Bytes},
		InodesUsed: &runtimeapi.UInt64Value{Value: info.Inodes},
	}}}, nil
}

// describe gives an image in CRI's terms.
func describe(m *Image) *runtimeapi.Image {
	img := &runtimeapi.Image{
		Id: m.ID, RepoTags: m.RepoTags, RepoDigests: m.RepoDigests, Size: uint64(m.Size), Pinned: m.Pinned,
		Spec: &runtimeapi.ImageSpec{Image: m.ID},
	}
	user, _, _ := strings.Cut(m.Config.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		img.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		img.Username = user
	}
	return img
}
