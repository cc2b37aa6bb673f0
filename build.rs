//! How libpsld.so is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let ours = |variable: &str| std::env::var(variable).unwrap_or_default();
    // Never unloaded: see src/pin.rs, which does the same for what is linked with libpsld.a.
    if ours("CARGO_CFG_TARGET_FAMILY").contains("unix") && ours("CARGO_CFG_TARGET_VENDOR") != "apple" {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
