package core

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sampan.dev/internal/resource/validate"
)

func (c *podCheck) checkVolumes(at *field.Path) {
	c.volumes = make(map[string]*corev1.VolumeSource, len(c.spec.Volumes))
	madeClaims := make(map[string]bool) // names of the claims that ephemeral volumes of this pod make
	if c.pod != nil && c.pod.Name != "" {
		for _, v := range c.spec.Volumes {
			if v.Ephemeral != nil {
				madeClaims[c.pod.Name+"-"+v.Name] = true
			}
		}
	}
	for i := range c.spec.Volumes {
		v, at, before := &c.spec.Volumes[i], at.Index(i), len(c.Errs)
		c.volume(v, at)
		if v.Name == "" {
			c.Required(at.Child("name"), "")
		} else {
			c.Label(at.Child("name"), v.Name)
		}
		if _, twice := c.volumes[v.Name]; twice {
			c.Add(field.Duplicate(at.Child("name"), v.Name))
		}
		if len(c.Errs) == before {
			c.volumes[v.Name] = &v.VolumeSource
		}
		if claim := v.PersistentVolumeClaim; claim != nil && madeClaims[claim.ClaimName] {
			c.Invalid(at.Child("persistentVolumeClaim", "claimName"), claim.ClaimName,
				"must not reference a PVC that gets created for an ephemeral volume")
		}
	}
}

// volume demands exactly one type: the first found is checked, any other is refused.
func (c *podCheck) volume(v *corev1.Volume, at *field.Path) {
	s, found := &v.VolumeSource, false
	// one checks a type that is set; deep is where its own errors are, which for two of them is not its name.
	one := func(name, deep string, set bool, check func(at *field.Path)) {
		switch {
		case !set:
		case found:
			c.Forbidden(at.Child(name), "may not specify more than 1 volume type")
		default:
			found = true
			check(at.Child(deep))
		}
	}
	same := func(name string, set bool, check func(at *field.Path)) { one(name, name, set, check) }

	same("emptyDir", s.EmptyDir != nil, func(at *field.Path) {
		if l := s.EmptyDir.SizeLimit; l != nil && l.Sign() < 0 {
			c.Forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")
		}
	})
	same("hostPath", s.HostPath != nil, func(at *field.Path) { c.hostPath(s.HostPath, at) })
	same("gitRepo", s.GitRepo != nil, func(at *field.Path) {
		c.must(at, "repository", s.GitRepo.Repository)
		c.relativePath(s.GitRepo.Directory, at.Child("directory"))
	})
	one("gcePersistentDisk", "persistentDisk", s.GCEPersistentDisk != nil, func(at *field.Path) {
		c.must(at, "pdName", s.GCEPersistentDisk.PDName)
		c.partition(s.GCEPersistentDisk.Partition, at)
	})
	same("awsElasticBlockStore", s.AWSElasticBlockStore != nil, func(at *field.Path) {
		c.must(at, "volumeID", s.AWSElasticBlockStore.VolumeID)
		c.partition(s.AWSElasticBlockStore.Partition, at)
	})
	same("secret", s.Secret != nil, func(at *field.Path) {
		c.must(at, "secretName", s.Secret.SecretName)
		c.Mode(at.Child("defaultMode"), s.Secret.DefaultMode)
		c.items(s.Secret.Items, at.Child("items"))
	})
	same("nfs", s.NFS != nil, func(at *field.Path) {
		c.must(at, "server", s.NFS.Server)
		c.must(at, "path", s.NFS.Path)
		if !path.IsAbs(s.NFS.Path) {
			c.Invalid(at.Child("path"), s.NFS.Path, "must be an absolute path")
		}
	})
	same("iscsi", s.ISCSI != nil, func(at *field.Path) { c.iscsi(s.ISCSI, at) })
	if s.ISCSI != nil && s.ISCSI.InitiatorName != nil && len(v.Name)+1+len(s.ISCSI.TargetPortal) > 64 {
		c.Invalid(at.Child("name"), v.Name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.")
	}
	same("glusterfs", s.Glusterfs != nil, func(at *field.Path) {
		c.must(at, "endpoints", s.Glusterfs.EndpointsName)
		c.must(at, "path", s.Glusterfs.Path)
	})
	same("flocker", s.Flocker != nil, func(at *field.Path) { c.flocker(s.Flocker, at) })
	same("persistentVolumeClaim", s.PersistentVolumeClaim != nil, func(at *field.Path) {
		c.must(at, "claimName", s.PersistentVolumeClaim.ClaimName)
	})
	same("rbd", s.RBD != nil, func(at *field.Path) {
		c.mustList(at, "monitors", s.RBD.CephMonitors)
		c.must(at, "image", s.RBD.RBDImage)
	})
	same("cinder", s.Cinder != nil, func(at *field.Path) {
		c.must(at, "volumeID", s.Cinder.VolumeID)
		c.secretRef(s.Cinder.SecretRef, at)
	})
	one("cephFS", "cephfs", s.CephFS != nil, func(at *field.Path) { c.mustList(at, "monitors", s.CephFS.Monitors) })
	same("quobyte", s.Quobyte != nil, func(at *field.Path) { c.quobyte(s.Quobyte, at) })
	one("downwarAPI", "downwardAPI", s.DownwardAPI != nil, func(at *field.Path) { // upstream's own misspelling
		c.Mode(at.Child("defaultMode"), s.DownwardAPI.DefaultMode)
		for i := range s.DownwardAPI.Items {
			c.downwardFile(&s.DownwardAPI.Items[i], at)
		}
	})
	same("fc", s.FC != nil, func(at *field.Path) { c.fibreChannel(s.FC, at) })
	same("flexVolume", s.FlexVolume != nil, func(at *field.Path) { c.flex(s.FlexVolume, at) })
	same("configMap", s.ConfigMap != nil, func(at *field.Path) {
		c.must(at, "name", s.ConfigMap.Name)
		c.Mode(at.Child("defaultMode"), s.ConfigMap.DefaultMode)
		c.items(s.ConfigMap.Items, at.Child("items"))
	})
	same("azureFile", s.AzureFile != nil, func(at *field.Path) {
		c.must(at, "secretName", s.AzureFile.SecretName)
		c.must(at, "shareName", s.AzureFile.ShareName)
	})
	same("vsphereVolume", s.VsphereVolume != nil, func(at *field.Path) { c.must(at, "volumePath", s.VsphereVolume.VolumePath) })
	same("photonPersistentDisk", s.PhotonPersistentDisk != nil, func(at *field.Path) { c.must(at, "pdID", s.PhotonPersistentDisk.PdID) })
	same("portworxVolume", s.PortworxVolume != nil, func(at *field.Path) { c.must(at, "volumeID", s.PortworxVolume.VolumeID) })
	same("azureDisk", s.AzureDisk != nil, func(at *field.Path) { c.azureDisk(s.AzureDisk, at) })
	same("storageos", s.StorageOS != nil, func(at *field.Path) { c.storageOS(s.StorageOS, at) })
	same("projected", s.Projected != nil, func(at *field.Path) { c.projected(s.Projected, at) })
	same("scaleIO", s.ScaleIO != nil, func(at *field.Path) {
		c.must(at, "gateway", s.ScaleIO.Gateway)
		c.must(at, "system", s.ScaleIO.System)
		c.must(at, "volumeName", s.ScaleIO.VolumeName)
	})
	same("csi", s.CSI != nil, func(at *field.Path) { c.csi(s.CSI, at) })
	same("ephemeral", s.Ephemeral != nil, func(deep *field.Path) {
		c.ephemeral(s.Ephemeral, deep)
		if c.pod != nil && c.pod.Name != "" && v.Name != "" {
			claim := c.pod.Name + "-" + v.Name
			for _, msg := range validation.IsDNS1123Subdomain(claim) {
				c.Invalid(at.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, msg))
			}
		}
	})
	same("image", s.Image != nil, func(at *field.Path) {
		if c.pod != nil {
			c.must(at, "reference", s.Image.Reference)
		}
		c.pullPolicy(s.Image.PullPolicy, at.Child("pullPolicy"))
	})
	if !found {
		c.Required(at, "must specify a volume type")
	}
}

func (c *podCheck) must(at *field.Path, name, value string) {
	if value == "" {
		c.Required(at.Child(name), "")
	}
}

func (c *podCheck) mustList(at *field.Path, name string, values []string) {
	if len(values) == 0 {
		c.Required(at.Child(name), "")
	}
}

// hostPathTypes are sorted; the first, the empty one, asks for no check.
var hostPathTypes = []corev1.HostPathType{
	corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
	corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket,
}

func (c *podCheck) hostPath(h *corev1.HostPathVolumeSource, at *field.Path) {
	if h.Path == "" {
		c.Required(at.Child("path"), "")
		return
	}
	c.noBacksteps(h.Path, at.Child("path"))
	if h.Type != nil {
		validate.OneOf(&c.List, at.Child("type"), *h.Type, hostPathTypes...)
	}
}

func (c *podCheck) items(items []corev1.KeyToPath, at *field.Path) {
	for i := range items {
		c.item(&items[i], at.Index(i))
	}
}

func (c *podCheck) item(k *corev1.KeyToPath, at *field.Path) {
	c.must(at, "key", k.Key)
	c.must(at, "path", k.Path)
	c.plainPath(k.Path, at.Child("path"))
	c.Mode(at.Child("mode"), k.Mode)
}

func (c *podCheck) downwardFile(f *corev1.DownwardAPIVolumeFile, at *field.Path) {
	c.must(at, "path", f.Path)
	c.plainPath(f.Path, at.Child("path"))
	switch {
	case f.FieldRef != nil:
		c.fieldRef(f.FieldRef, volumeFields, at.Child("fieldRef"))
		if f.ResourceFieldRef != nil {
			c.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
		}
	case f.ResourceFieldRef != nil:
		c.resourceRef(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))
	default:
		c.Required(at, "one of fieldRef and resourceFieldRef is required")
	}
	c.Mode(at.Child("mode"), f.Mode)
}

const minTokenSeconds = 10 * 60

func (c *podCheck) projected(p *corev1.ProjectedVolumeSource, at *field.Path) {
	c.Mode(at.Child("defaultMode"), p.DefaultMode)
	paths := validate.Seen{}
	once := func(path string, value string) {
		if path != "" && paths.Again(path) {
			c.Invalid(at, value, "conflicting duplicate paths")
		}
	}
	objects := func(name string, items []corev1.KeyToPath, from *field.Path) {
		c.must(from, "name", name)
		for i := range items {
			c.item(&items[i], from.Child("items").Index(i))
			once(items[i].Path, name)
		}
	}
	for i, s := range p.Sources {
		src, types := at.Child("sources").Index(i), 0
		if s.Secret != nil {
			types++
			objects(s.Secret.Name, s.Secret.Items, src.Child("secret"))
		}
		if s.ConfigMap != nil {
			types++
			objects(s.ConfigMap.Name, s.ConfigMap.Items, src.Child("configMap"))
		}
		if s.DownwardAPI != nil {
			types++
			for j := range s.DownwardAPI.Items {
				f := &s.DownwardAPI.Items[j]
				c.downwardFile(f, src.Child("downwardAPI"))
				once(f.Path, f.Path)
			}
		}
		if t := s.ServiceAccountToken; t != nil {
			types++
			if e := t.ExpirationSeconds; e != nil && *e < minTokenSeconds {
				c.Invalid(src.Child("serviceAccountToken", "expirationSeconds"), *e, "may not specify a duration less than 10 minutes")
			} else if e != nil && *e > 1<<32 {
				c.Invalid(src.Child("serviceAccountToken", "expirationSeconds"), *e, "may not specify a duration larger than 2^32 seconds")
			}
			c.must(at, "path", t.Path)
			c.plainPath(t.Path, at.Child("path"))
		}
		if types > 1 {
			c.Forbidden(src, "may not specify more than 1 volume type per source")
		}
	}
}

// noTokens refuses tokens where there is no account to make them for.
func (c *podCheck) noTokens(at *field.Path) {
	for i, v := range c.spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for j, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				c.Forbidden(at.Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
					"must not be specified when serviceAccountName is not set")
			}
		}
	}
}

func (c *podCheck) noBacksteps(p string, at *field.Path) {
	if slices.Contains(strings.Split(p, "/"), "..") {
		c.Invalid(at, p, "must not contain '..'")
	}
}

func (c *podCheck) relativePath(p string, at *field.Path) {
	if path.IsAbs(p) {
		c.Invalid(at, p, "must be a relative path")
	}
	c.noBacksteps(p, at)
}

// plainPath also refuses names that begin with "..", which the node uses itself in such volumes.
func (c *podCheck) plainPath(p string, at *field.Path) {
	c.relativePath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		c.Invalid(at, p, "must not start with '..'")
	}
}
