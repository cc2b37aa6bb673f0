//! Lets the program find libtorch at run time without `LD_LIBRARY_PATH`: first the one it was built with, then
//! that of hosts which bring PyTorch themselves.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // torch-sys says where its library is, and only if it is in the build at all.
    println!("cargo::rerun-if-env-changed=DEP_TCH_LIBTORCH_LIB");
    let Ok(built_with) = std::env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    for folder in [built_with.as_str(), "/opt/torch/.venv/lib/python3.12/site-packages/torch/lib"] {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
    }
}
