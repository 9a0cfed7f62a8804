//! Gets the engines of `milpa-sandbox` again from their npm packages and compares them.
//!
//! It needs `npm` and `tar`. What the files are is told in `crates/milpa-sandbox/data/README.md`.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{root, run};

/// Package, version, file in the package, file in `crates/milpa-sandbox/data`.
const FILES: [(&str, &str, &str, &str); 2] = [
    (
        "@jitl/quickjs-wasmfile-release-sync",
        "0.32.0",
        "dist/emscripten-module.wasm",
        "quickjs.wasm",
    ),
    ("@jitl/quickjs-wasmfile-release-sync", "0.32.0", "LICENSE", "quickjs.LICENSE"),
];

/// Compares each file with that of its package.
pub(crate) fn compare() -> Result<()> {
    let folder = root().join("target/sandbox-engines");
    for (package, version, path, ours) in FILES {
        fs::create_dir_all(&folder)?;
        let archive =
            format!("{}-{version}.tgz", package.trim_start_matches('@').replace('/', "-"));
        if !folder.join(&archive).exists() {
            let name = format!("{package}@{version}");
            run(Command::new("npm").args(["pack", &name, "--pack-destination"]).arg(&folder))?;
        }
        let unpacked = folder.join(archive.trim_end_matches(".tgz"));
        fs::create_dir_all(&unpacked)?;
        run(Command::new("tar").arg("xzf").arg(folder.join(&archive)).arg("-C").arg(&unpacked))?;
        let theirs = unpacked.join("package").join(path);
        let theirs = fs::read(&theirs).with_context(|| theirs.display().to_string())?;
        let ours = root().join("crates/milpa-sandbox/data").join(ours);
        if fs::read(&ours).with_context(|| ours.display().to_string())? != theirs {
            bail!("{} is not {path} of {package} {version}", ours.display());
        }
        eprintln!("{} is {path} of {package} {version}", ours.display());
    }
    Ok(())
}
