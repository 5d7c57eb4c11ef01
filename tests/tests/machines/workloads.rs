//! What users start machines for: installing, building, version control, databases; on the root and on a share.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use end_to_end::{Engine, Finished, Image, images, on_engines};

use crate::fixture::Machines;

on_engines! {
    with_shares: real_work_is_done_on_the_root_and_on_a_share;
}

/// Each step says its name when it is done; the first that fails ends the script.
const STEPS: &str = r#"
set -e
export HOME=/root GIT_CONFIG_GLOBAL=/root/gitconfig
cd /root

apt-get install --yes /work/files/hello-lamina.deb > /root/apt.log 2>&1 || { cat /root/apt.log >&2; exit 1; }
test "$(hello-lamina)" = packaged
test -z "$(dpkg --verify hello-lamina bash libc-bin | grep -v /usr/share/)"
echo apt

python3 -m pip install --quiet --no-index --break-system-packages --root-user-action=ignore /work/files/idna-*.whl
test "$(python3 -c 'import idna; print(idna.encode("b\u00fccher.example").decode())')" = xn--bcher-kva.example
echo pip

cp -r /work/files/npm /srv/npm && cd /srv/npm
node /usr/local/lib/node_modules/npm/bin/npm-cli.js ci --silent --offline --no-audit --no-fund
node -e 'process.exit(require("is-odd")(3) && !require("is-odd")(4) ? 0 : 1)'
echo npm

git config --global user.email work@example.test && git config --global user.name Work
git config --global --add safe.directory '*'
git clone --quiet /work/origin /work/clone && cd /work/clone
test -z "$(git status --porcelain)"
echo changed >> file && test "$(git status --porcelain)" = " M file"
git commit --quiet --all --message changed && git push --quiet origin HEAD:changed
echo git

for place in /srv /work; do
  cat > /root/database.py <<'PYTHON'
import sqlite3, subprocess, sys
path = sys.argv[1]
one = sqlite3.connect(path)
assert one.execute("pragma journal_mode=wal").fetchone() == ("wal",)
one.execute("create table t(n)")
for n in range(100):
    with one: one.execute("insert into t values (?)", (n,))
look = "import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute('select count(*) from t').fetchone()[0])"
assert subprocess.check_output([sys.executable, "-c", look, path]) == b"100\n"
assert one.execute("pragma integrity_check").fetchone() == ("ok",)
PYTHON
  python3 /root/database.py $place/database
  echo sqlite $place

  cat > /root/map.py <<'PYTHON'
import mmap, subprocess, sys
path = sys.argv[1]
open(path, "wb").write(bytes(1 << 20))
file = open(path, "r+b")
shared = mmap.mmap(file.fileno(), 0)
shared[123456:123463] = b"written"
shared.flush()
assert subprocess.check_output(["tail", "-c", "+123457", path])[:7] == b"written"
PYTHON
  python3 /root/map.py $place/map
  echo map $place

  flock $place/lock sh -c "touch $place/held; while test -e $place/held; do sleep 0.05; done" &
  while ! test -e $place/held; do sleep 0.05; done
  if flock --nonblock $place/lock true; then exit 9; fi
  rm $place/held; wait
  flock --nonblock $place/lock true
  echo flock $place
done
"#;

fn real_work_is_done_on_the_root_and_on_a_share(engine: Engine) {
    let machines = Machines::on(engine, Image::Work);
    let session = &machines.session;
    let work = session.work("work");
    let prepare = format!(
        "cp -r {} files && git init --quiet --initial-branch=main origin && cd origin && git config receive.denyCurrentBranch ignore \
         && git config user.email work@example.test && git config user.name Work \
         && seq 1000 > file && mkdir -p a/b && for n in $(seq 50); do echo $n > a/b/$n; done && git add . && git commit --quiet -m first",
        images::directory().join(Image::WORK_FILES).display()
    );
    let mut shell = session.command(Path::new("sh"));
    Finished::of(shell.args(["-ec", &prepare]).env("HOME", &work).current_dir(&work)).succeeded();

    let share = format!("{}:/work", work.display());
    let options = ["--memory", "1G", "--network", "none", "-v", &share];
    let finished = machines.run(&options, &["/bin/bash", "-c", STEPS]);
    let expected = "apt pip npm git sqlite /srv map /srv flock /srv sqlite /work map /work flock /work";
    let done: Vec<&str> = finished.stdout.split_whitespace().collect();
    assert_eq!(done.join(" "), expected, "{finished}");
    assert!(finished.status.success(), "{finished}");

    let log = ["-C", "origin", "log", "--format=%s", "changed"];
    let mut git = session.command(Path::new("git"));
    let log = Finished::of(git.args(log).env("HOME", &work).current_dir(&work)).succeeded().stdout;
    assert_eq!(log, "changed\nfirst\n");
    let owner = fs::metadata(&work).unwrap().uid();
    for made in ["clone/file", "database", "map", "origin/.git/refs/heads/changed"] {
        assert_eq!(
            fs::metadata(work.join(made)).unwrap().uid(),
            owner,
            "{made} belongs to the user who ran the machine"
        );
    }
    session.traces().assert_nothing_left();
}
