//! What users start containers for, with a network: packages of Debian, PyPI, npm and crates.io, and the servers and
//! programs that are in them.
//!
//! What needs no network is in `machines/workloads.rs`, for VMs and containers alike: git, SQLite, locks, and packages
//! that are there already.

use end_to_end::Image;

use crate::fixture::Containers;

/// The certificates of this host, which may know its registries by others than the image does.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Variables that say where registries are.
const REGISTRIES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "PIP_INDEX_URL",
    "npm_config_registry",
    "CARGO_REGISTRIES_CRATES_IO_PROTOCOL",
    "CARGO_SOURCE_CRATES_IO_REPLACE_WITH",
    "CARGO_HTTP_PROXY",
];

/// Runs a script in a container of the image to work in, whose programs reach the registries as this host's do.
fn work(script: &str) -> String {
    let containers = Containers::of(Image::Work);
    let share = format!("{CERTIFICATES}:/certificates:ro");
    let set = REGISTRIES.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    let own = ["PIP_CERT", "CARGO_HTTP_CAINFO", "NODE_EXTRA_CA_CERTS"].map(|name| format!("{name}=/certificates"));
    let variables: Vec<String> = set.chain(own).collect();
    let options: Vec<&str> = ["--network", "passt", "-v", &share]
        .into_iter()
        .chain(variables.iter().flat_map(|variable| ["-e", variable.as_str()]))
        .collect();
    let seen = containers.ok(&options, &format!("{PREPARE}{script}"));
    containers.session.traces().assert_nothing_left();
    seen
}

/// No service is started by its installation, as in the images of docker.
const PREPARE: &str = r#"
export DEBIAN_FRONTEND=noninteractive HOME=/root
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
install_packages() {
  { apt-get update && apt-get install --yes --no-install-recommends "$@"; } > /tmp/log 2>&1 || { tail /tmp/log >&2; exit 1; }
  # The image has been made without documentation.
  test -z "$(dpkg --verify | grep -v ' /usr/share/')"
}
"#;

#[test]
fn servers_are_installed_by_apt_and_run_as_their_own_users() {
    let script = r#"
install_packages postgresql nginx-light
echo installed

as_postgres() { setpriv --reuid postgres --regid postgres --init-groups -- "$@"; }
programs=/usr/lib/postgresql/15/bin
install -d -o postgres -g postgres /srv/pg
cd /srv/pg
as_postgres $programs/initdb -A trust -D /srv/pg > /tmp/log
as_postgres $programs/pg_ctl -D /srv/pg -w -l /srv/pg/log start > /tmp/log
query='create table t(n int); insert into t select generate_series(1, 1000); select sum(n) from t'
as_postgres psql -tAqc "$query" postgres
as_postgres $programs/pg_ctl -D /srv/pg -w stop > /tmp/log
stat -c '%U %a' /srv/pg/PG_VERSION

nginx
python3 -c 'import urllib.request as r; print(r.urlopen("http://127.0.0.1/").status)'
workers() { for process in /proc/[0-9]*; do if grep -qsa '^nginx: worker' $process/cmdline; then stat -c %U $process; fi; done; }
# A worker becomes its user a moment after it has its name.
while workers | grep -q root; do sleep 0.1; done
workers | sort -u
nginx -s quit
"#;
    assert_eq!(work(script), "installed\n500500\npostgres 600\n200\nwww-data\n");
}

#[test]
fn packages_of_pypi_and_npm_are_installed_and_work() {
    let script = r#"
python3 -m pip install --quiet --break-system-packages --root-user-action=ignore numpy==2.2.6
python3 -c 'import numpy; print(int(numpy.arange(10).sum()))'

npm() { node /usr/local/lib/node_modules/npm/bin/npm-cli.js --silent --no-audit --no-fund "$@"; }
mkdir /srv/web && cd /srv/web
npm install express@4.21.2 typescript@5.8.3 > /dev/null
rm -r node_modules
npm ci > /dev/null
node -e 'console.log(typeof require("express")())'
node_modules/.bin/tsc --version
"#;
    assert_eq!(work(script), "45\nfunction\nVersion 5.8.3\n");
}

#[test]
fn cargo_builds_a_program_with_a_crate_and_a_build_script() {
    let script = r#"
install_packages cargo-web gcc libc6-dev
mkdir -p /srv/program/src && cd /srv/program
cat > Cargo.toml <<'END'
[package]
name = "program"
version = "0.1.0"
edition = "2021"

[dependencies]
itoa = "=1.0.15"
END
echo 'fn main() { println!("cargo:rustc-env=BUILT=by its script"); }' > build.rs
echo 'fn main() { println!("{} {}", itoa::Buffer::new().format(6 * 7), env!("BUILT")); }' > src/main.rs
cargo build --quiet --release
target/release/program
touch src/main.rs
cargo build --release 2>&1 | grep -c Compiling
"#;
    assert_eq!(work(script), "42 by its script\n1\n");
}
