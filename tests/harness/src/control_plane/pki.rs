//! Keys and certificates of one control plane, made by `openssl`, and kubeconfigs that use them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::Run;

/// How long certificates hold; a control plane for tests lives for minutes, one for people for weeks.
const DAYS: &str = "3650";

/// One authority and what it has signed, in a directory of its own.
#[derive(Clone, Debug)]
pub(super) struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes the authority, the server's certificate for these addresses, and the key that signs service accounts'
    /// tokens.
    pub(super) fn create(dir: PathBuf, server: &[IpAddr]) -> Result<Self> {
        std::fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let pki = Self { dir };
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let subject = ["-subj", "/CN=poolward-test-ca", "-days", DAYS, "-keyout"];
        openssl(["req", "-x509"].into_iter().chain(key).chain(subject).map(PathBuf::from).chain([
            pki.key("ca"),
            "-out".into(),
            pki.certificate("ca"),
        ]))?;
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let names = names.iter().map(|name| format!("DNS:{name}"));
        let addresses = server.iter().map(|address| format!("IP:{address}"));
        let alternatives: Vec<String> = names.chain(addresses).collect();
        pki.sign("apiserver", "/CN=kube-apiserver", &alternatives.join(","))?;
        pki.sign("apiserver-kubelet", "/O=system:masters/CN=apiserver-kubelet-client", "DNS:apiserver")?;
        let (secret, public) = (pki.key("sa"), pki.dir.join("sa.pub"));
        let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
        openssl(curve.iter().map(PathBuf::from).chain([secret.clone()]))?;
        openssl(["ec".into(), "-in".into(), secret, "-pubout".into(), "-out".into(), public])?;
        Ok(pki)
    }

    pub(super) fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    pub(super) fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    pub(super) fn service_account_public_key(&self) -> PathBuf {
        self.dir.join("sa.pub")
    }

    /// A certificate for a client of this name in these groups; the file's base name.
    pub(super) fn sign_client(&self, user: &str, groups: &[&str]) -> Result<String> {
        for name in groups.iter().chain([&user]) {
            ensure!(!name.contains(['/', '\\', '=', '+', ',']), "{name:?} cannot be part of a subject");
        }
        let groups: String = groups.iter().map(|group| format!("/O={group}")).collect();
        let name = user.replace(':', "-");
        self.sign(&name, &format!("{groups}/CN={user}"), "DNS:client")?;
        Ok(name)
    }

    fn sign(&self, name: &str, subject: &str, alternatives: &str) -> Result<()> {
        let request = self.dir.join(format!("{name}.csr"));
        let extensions = self.dir.join(format!("{name}.ext"));
        let text = format!(
            "subjectAltName={alternatives}\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature\n\
             basicConstraints=CA:FALSE\n"
        );
        std::fs::write(&extensions, text).with_context(|| format!("write {}", extensions.display()))?;
        let key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject];
        let to = ["-keyout".into(), self.key(name), "-out".into(), request.clone()];
        openssl(key.iter().map(PathBuf::from).chain(to))?;
        let sign = ["x509", "-req", "-CAcreateserial", "-days", DAYS, "-in"].into_iter().map(PathBuf::from);
        openssl(sign.chain([
            request,
            "-CA".into(),
            self.certificate("ca"),
            "-CAkey".into(),
            self.key("ca"),
            "-extfile".into(),
            extensions,
            "-out".into(),
            self.certificate(name),
        ]))
    }

    /// Writes a kubeconfig for a client that [`Pki::sign_client`] made.
    pub(super) fn write_kubeconfig(&self, to: &Path, client: &str, server: &str) -> Result<()> {
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: poolward\n\
             contexts: [{{name: poolward, context: {{cluster: poolward, user: {client}}}}}]\n\
             clusters:\n\
             - name: poolward\n  \
               cluster: {{server: \"{server}\", certificate-authority: {}}}\n\
             users:\n\
             - name: {client}\n  \
               user: {{client-certificate: {}, client-key: {}}}\n",
            self.certificate("ca").display(),
            self.certificate(client).display(),
            self.key(client).display(),
        );
        std::fs::write(to, text).with_context(|| format!("write {}", to.display()))
    }
}

fn openssl(args: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    Run::new("openssl").args(args).ok().map(drop)
}
