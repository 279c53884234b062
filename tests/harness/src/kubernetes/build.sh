#!/bin/bash
# build.sh DEST: Kubernetes 1.20.2 from Debian bookworm's source package, the only full tree that a registry of packages
# holds, with bookworm's golang-1.19. Takes 3 to 6 minutes on two cores, 2.6 GB while it builds, 280 MB of result.
# Lines that begin with "== " say how far it is. A change of this file is another key in the cache, so it builds anew.
set -euo pipefail
dest=$1
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl kube-proxy"
orig=kubernetes_1.20.5+really1.20.2.orig.tar.gz
orig_sha256=b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc
export GOROOT=/usr/lib/go-1.19

# Beside the result, so that moving it there is a rename: nobody ever finds half of it.
work=$(mktemp -d "$dest.building.XXXXXX")
trap 'rm -rf "$work"' EXIT

# Lists of our own: the machine's may lack the sources, and are not ours to change.
echo "== package lists"
mkdir -p "$work"/apt/etc/{apt.conf.d,preferences.d,sources.list.d} "$work"/apt/{state/lists,cache/archives}/partial
mirror=$(apt-get indextargets --format '$(REPO_URI) $(SUITE) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    awk '($2 == "bookworm" || $3 == "bookworm") && $4 == "main" { print $1; exit }')
for type in deb deb-src; do
    echo "$type [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror:?no source of bookworm main} bookworm main"
done > "$work/apt/etc/sources.list"
cat > "$work/apt.conf" <<CONF
Dir::Etc "$work/apt/etc";
Dir::State "$work/apt/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$work/apt/cache";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
CONF
export APT_CONFIG=$work/apt.conf
cd "$work"
apt-get -qq update

echo "== source"
apt-get -qq source --download-only kubernetes
echo "$orig_sha256  $orig" | sha256sum --check --quiet
tar xzf "$orig"
source=$work/kubernetes-1.20.2

# Kubernetes 1.20 is older than Go 1.18, which broke two things it relies on.
# 1. reflect2 1.0.1 reads the runtime's insides: the server dies of SIGSEGV when the first custom resource is written.
apt-get -qq download golang-github-modern-go-reflect2-dev
dpkg -x golang-github-modern-go-reflect2-dev_*.deb reflect2
vendored=$source/vendor/github.com/modern-go/reflect2
rm -f "$vendored"/*.go "$vendored"/*.s
cp reflect2/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$vendored/"
rm -f "$vendored"/*_test.go
# 2. reflect.Zero of a string now points at a shared zero: the validator takes "" for null, and refuses every empty
#    string in a custom resource.
for file in k8s.io/kube-openapi/pkg/validation/validate/type.go github.com/go-openapi/validate/type.go; do
    sed -i 's/if data == nil || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data)) {/if data == nil {/' \
        "$source/vendor/$file"
    if grep -q 'DeepEqual(reflect.Zero(reflect.TypeOf' "$source/vendor/$file"; then
        echo "$file: not patched"
        exit 1
    fi
done

cd "$source"
mkdir "$work/home"
# -tags must come last: hack/lib/golang.sh edits this. Without cloud providers and without dockershim.
export HOME=$work/home PATH=$GOROOT/bin:$PATH CGO_ENABLED=0 GOLDFLAGS="-s -w"
export GOFLAGS="-p=$(nproc) -tags=providerless,dockerless"
echo "== generated files"
make generated_files
echo "== programs"
# One call for all: every call looks through the generated files again.
make WHAT="$(printf 'cmd/%s ' $programs)"

echo "== check"
mkdir "$work/result"
for program in $programs; do
    install -m755 "_output/local/bin/linux/amd64/$program" "$work/result/"
done
"$work/result/kube-apiserver" --version
# Somebody else who was faster built the same.
mv -T "$work/result" "$dest" || test -x "$dest/kube-proxy"
