//! The command line of psld: arguments in, files and reports out. It computes nothing.

mod args;
mod bench;
mod completions;
mod encode;
#[cfg(feature = "onnxruntime")]
mod fd;
mod info;
mod interpolate;
mod interrupt;
mod likelihood;
mod man;
mod measure;
mod noise;
mod output;
mod plan;
mod probe;
mod report;
mod sample;
mod samplers;
mod study;
mod tune;
#[cfg(feature = "onnxruntime")]
mod verify;

use args::{Cli, Command};
use clap::FromArgMatches;
use psld::{Error, Status};
use std::process::ExitCode;
use std::time::Instant;

/// How a command failed, as the shell sees it.
fn exit_code(error: &Error) -> u8 {
    match error.status() {
        Status::Cancelled => 130,
        Status::CheckpointInvalid => 2,
        Status::WriteFailed => 1,
        status if (100..300).contains(&(status as i32)) => 2,
        _ => 1,
    }
}

fn main() -> ExitCode {
    let began = Instant::now();
    // A write past the limit on file sizes shall be an error like any other, not the end of the process.
    // SAFETY: no handler runs; the signal is ignored from here on.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };

    let mut command = args::command();
    // Only who asks for all versions pays for loading ONNX Runtime.
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "--version") {
        command = command.long_version(&*report::versions().leak());
    }
    let cli = match command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    let done = std::panic::catch_unwind(|| match cli.command {
        Command::Sample(args) => sample::run(*args, began),
        Command::Encode(args) => sample::run(args.sample(), began),
        Command::Interpolate(args) => interpolate::run(args),
        Command::Likelihood(args) => likelihood::run(*args),
        Command::Measure(args) => measure::run(args),
        Command::Info(args) => info::run(args),
        Command::Plan(args) => plan::run(*args),
        #[cfg(feature = "onnxruntime")]
        Command::Verify(args) => verify::run(args),
        #[cfg(feature = "onnxruntime")]
        Command::Fd(args) => fd::run(args),
        Command::Bench(args) => bench::run(*args),
        Command::Noise(args) => noise::run(args),
        Command::Tune(args) => tune::run(*args),
        Command::Study(args) => study::run(args),
        Command::Samplers(args) => samplers::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    });
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            report::error(&error);
            ExitCode::from(exit_code(&error))
        }
        Err(_) => {
            report::error(&Error::new(Status::Internal, "a defect of psld: please report the lines above"));
            ExitCode::FAILURE
        }
    }
}
