//! A corpus on a disk that fills: each failure says what to do and leaves nothing half-written, and the same
//! command goes on when there is more room, to the bytes of a disk that never filled.
//!
//! The disk is a tmpfs that begins with a few MiB and grows after each failure, little where a stage has
//! just been reached and more the longer it fails, so preparing, merging and writing all meet its end. Mounting needs root, or a namespace of one's own:
//! `unshare --map-root-user --mount cargo xtask disk-full DIR`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    bench::{heading, record},
    cargo, root, slurm,
};

/// Room at first.
const FIRST_MIB: u64 = 2;
/// What a build does, in this order; all must be seen to fail.
const STAGES: [&str; 3] = ["preparing", "merging", "writing"];
/// Small memory and shards, so that sorters spill and several files are written.
const SETTINGS: &str = "\n[corpus]\nshard_size = \"8 MiB\"\nvalidation = { share = 0.1 }\n\n\
    [corpus.dedup]\nmemory = \"1 MiB\"\n";
/// Passages that repeat are sought by sorting all of the text, which takes more room than its shards.
const REPEATS: &str = "repeats = { min_bytes = 200 }\n";

/// Runs the check on the texts in `data` (`*.jsonl.zst` with a field `text`).
pub(crate) fn disk_full(data: &Path) -> Result<()> {
    cargo(&["build", "--quiet", "--release", "-p", "milpa"])?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("disk-full");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let milpa = Milpa { program: target.join("release/milpa") };
    let first = slurm::write_recipe(&folder, data, &format!("{SETTINGS}{REPEATS}"))?;
    // Another corpus, that replaces the first one.
    let second = folder.join("second.toml");
    fs::write(&second, fs::read_to_string(&first)?.replace(REPEATS, ""))?;
    let [expect_first, expect_second] = [(&first, "first"), (&second, "second")]
        .map(|(recipe, name)| milpa.whole(recipe, &folder.join(name)));
    let (expect_first, expect_second) = (expect_first?, expect_second?);
    ensure!(expect_first != expect_second, "both recipes give one corpus");

    let (date, mut text) = heading()?;
    let mut say = |line: &str| {
        println!("{line}");
        text.push_str(line);
        text.push('\n');
    };
    say(
        "a corpus on a disk that fills; after each failure the disk grows and the command runs again",
    );
    let disk = Disk::mount(&folder.join("disk"))?;
    let out = disk.path.join("corpus");
    let mut room = FIRST_MIB;
    let mut seen = BTreeMap::<&str, u32>::new();
    for (recipe, expect, older) in
        [(&first, &expect_first, None), (&second, &expect_second, Some(&expect_first))]
    {
        let (mut failures, mut last, mut more) = (BTreeMap::<String, u32>::new(), "", 0u64);
        if older.is_some() {
            // What is there may stay; a second corpus has no room beside it.
            room = disk.used_mib()? + FIRST_MIB;
        }
        loop {
            disk.resize(room)?;
            let Some(error) = milpa.build(recipe, &out)? else { break };
            check(&error, &disk.path)?;
            match older {
                Some(older) => ensure!(&contents(&out)? == older, "the older corpus was touched"),
                None => ensure!(!out.exists(), "a corpus that is not whole stands there"),
            }
            let parts = whole_parts(&disk.path)?;
            let stage = stage(&error);
            *seen.entry(stage).or_default() += 1;
            *failures.entry(file(&error)).or_default() += 1;
            say(&format!(
                "{room:4} MiB, {parts} parts prepared, {stage}: {}",
                shortened(&error, &disk.path)
            ));
            more = if stage == last { more + more.div_ceil(2) } else { 1 };
            last = stage;
            room += more;
        }
        ensure!(&contents(&out)? == expect, "the corpus differs from that of a large disk");
        let failures: Vec<String> =
            failures.iter().map(|(step, count)| format!("{step} {count}")).collect();
        say(&format!(
            "{room:4} MiB: complete, with the bytes of a disk that never filled; failures by file: {}",
            failures.join(", ")
        ));
    }
    let unseen = STAGES.iter().find(|&stage| !seen.contains_key(stage));
    ensure!(unseen.is_none(), "the disk never was full while {}", unseen.unwrap_or(&""));
    say(&format!("failures by stage: {seen:?}"));
    say("disk-full: nothing half-written was left, and both corpora are right");
    drop(disk);
    record(&format!("disk-full-{date}.txt"), &text)
}

/// What a user must be told.
fn check(error: &str, disk: &Path) -> Result<()> {
    let mounted = format!("mounted at {}", disk.display());
    for wanted in ["the disk is full", "free some space", "run the same command", &mounted] {
        ensure!(error.contains(wanted), "the message does not say {wanted:?}: {error}");
    }
    Ok(())
}

/// Counts prepared parts; anything else that takes room is a failure.
fn whole_parts(disk: &Path) -> Result<usize> {
    for entry in fs::read_dir(disk)? {
        let name = entry?.file_name();
        let expected = ["corpus", "corpus.parts"].iter().any(|known| name == *known);
        ensure!(expected, "{} was left", name.display());
    }
    let mut parts = 0;
    for entry in fs::read_dir(disk.join("corpus.parts")).into_iter().flatten() {
        let path = entry?.path();
        if path.is_dir() {
            ensure!(path.join("manifest.toml").is_file(), "{} was left", path.display());
            parts += 1;
        } else {
            ensure!(fs::metadata(&path)?.len() < 4096, "{} was left", path.display());
        }
    }
    Ok(parts)
}

/// Which of [`STAGES`] found the disk full.
fn stage(error: &str) -> &'static str {
    let [preparing, merging, writing] = STAGES;
    match error {
        _ if error.contains("scratch folder") => merging,
        _ if error.contains("corpus.parts") => preparing,
        _ => writing,
    }
}

/// The kind of file that had no room: its name without numbers.
fn file(error: &str) -> String {
    if error.contains("scratch folder") {
        return "scratch".to_owned();
    }
    let path = error.split("cannot write ").nth(1).unwrap_or_default();
    let path = path.split(": the disk").next().unwrap_or_default();
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let letters = name.trim_matches(|c: char| !c.is_alphabetic()).to_owned();
    if letters.len() >= 30 { "digests".to_owned() } else { letters.replace("-00000", "") }
}

/// The message without folders of this machine.
fn shortened(error: &str, disk: &Path) -> String {
    let end = error.find(": the disk").unwrap_or(error.len());
    let shown = error[..end].replace(&*disk.to_string_lossy(), "DISK");
    // Names of folders for one process say nothing.
    let last = shown.rfind('/').map_or(0, |slash| slash + 1);
    let first = shown.find("/.writing-").or_else(|| shown.find("/scratch-")).unwrap_or(last);
    let name = if shown.contains("scratch folder") { "" } else { &shown[last..] };
    format!("{}/…/{name}", shown[..first.min(last)].trim_end_matches('/'))
}

struct Milpa {
    program: PathBuf,
}

impl Milpa {
    /// Builds where there is room; what the corpus holds.
    fn whole(&self, recipe: &Path, out: &Path) -> Result<BTreeMap<String, String>> {
        let failed = self.build(recipe, out)?;
        ensure!(failed.is_none(), "{}", failed.unwrap_or_default());
        contents(out)
    }

    /// The message, if it failed.
    fn build(&self, recipe: &Path, out: &Path) -> Result<Option<String>> {
        let done = Command::new(&self.program)
            .args(["corpus", "build"])
            .arg(recipe)
            .arg("--out")
            .arg(out)
            .args(["--threads", "2"])
            .output()
            .context("cannot start milpa")?;
        if done.status.success() {
            return Ok(None);
        }
        let errors = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.code() == Some(1), "{}: {errors}", done.status);
        let message = errors.split("error: ").nth(1).unwrap_or(&errors);
        Ok(Some(message.trim().replace('\n', " ")))
    }
}

/// Hashes of the files in a folder, by name.
fn contents(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, blake3::hash(&fs::read(&path)?).to_string());
    }
    Ok(files)
}

/// A tmpfs of a size that can be changed.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    pub(crate) fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let options = format!("size={FIRST_MIB}m");
        crate::run(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "milpa-disk-full"])
                .arg(path),
        )
        .context(
            "a small disk needs root, or: unshare --map-root-user --mount cargo xtask disk-full DIR",
        )?;
        Ok(Self { path: path.canonicalize()? })
    }

    /// Where it stands.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn resize(&self, mib: u64) -> Result<()> {
        let options = format!("remount,size={mib}m");
        crate::run(Command::new("mount").args(["-o", &options]).arg(&self.path))
    }

    /// Room that is taken, rounded up.
    fn used_mib(&self) -> Result<u64> {
        let mut bytes = 0;
        for name in ["corpus", "corpus.parts"] {
            for entry in fs::read_dir(self.path.join(name)).into_iter().flatten() {
                bytes += entry?.metadata()?.len();
            }
        }
        Ok(bytes.div_ceil(1 << 20))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Best effort: what stays mounted is seen with `mount`.
        let _ = Command::new("umount").arg(&self.path).status();
    }
}
