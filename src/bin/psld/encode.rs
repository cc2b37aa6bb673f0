//! `psld encode`.

use crate::args::{ImagesArgs, ModelArgs, SamplerArgs, What, labels};
use crate::sample::SampleArgs;
use clap::{Args, ValueHint};
use psld::config::OneOrMany;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
A latent is the state at --t-start: [n, k*C, ...], with the momenta of images drawn from their law at --t-end by the \
sample's seed. `psld sample --init` with the same sampler gives the images back, up to the sampler's error.")]
pub struct EncodeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub of: ImagesArgs,
    /// The latents
    #[arg(short, long, value_name = "FILE.npy", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub out: PathBuf,

    #[command(flatten)]
    pub sampler: SamplerArgs,

    /// Class of all images, or a list that they take in turn [default: the null class]
    #[arg(long, value_name = "N", value_parser = labels, allow_hyphen_values = true, help_heading = "What to sample")]
    pub label: Option<OneOrMany<i64>>,
}

impl EncodeArgs {
    /// The sampling that this is: from images to states.
    pub fn sample(self) -> SampleArgs {
        let Self { model, of, out, sampler, label } = self;
        let ImagesArgs { images, json, quiet, state, batch } = of;
        SampleArgs {
            n: None,
            sampler: SamplerArgs { encode: true, ..sampler },
            label,
            scale: None,
            init: None,
            from_image: Some(images),
            noise: None,
            inpaint_image: None,
            inpaint_mask: None,
            inpaint_method: None,
            inpaint_resample: None,
            restore: None,
            measurement: None,
            measurement_mask: None,
            measurement_noise: None,
            out: Some(out),
            columns: None,
            overwrite: false,
            output: What::State,
            json,
            quiet,
            state,
            batch,
            max_memory: None,
            deadline: None,
            anytime: false,
            checkpoint: None,
            resume: None,
            model,
        }
    }
}
