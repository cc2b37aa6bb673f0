//! Gaussian paths: the forward processes that data are diffused along.
//!
//! A [`Process`] is z_t | x_0 ~ N(a(t) x_0, Σ(t)) with dz = F(t) z dt + G(t) dw, for k coordinates per data
//! dimension (k = 1: VP; 2: position and momentum; 3: third-order Langevin). All its matrices are k x k
//! and act as K ⊗ I; coordinate 0 is the position, where the data live. Times are forward times: t = 0 is
//! data, t = 1 the prior.
//!
//! Most are instances of the *complete recipe* (Ma, Chen and Fox, 2015; arXiv 2303.01748) with constant D, Q, S
//! per unit of b(t) = ∫₀ᵗ β: F = −β (D + Q) S⁻¹, G Gᵀ = 2 β D, and N(0, S) stationary. The paths that ordinary
//! diffusion networks were trained on and that are no recipes have k = 1: [`ve`](Process::ve), [`edm`](Process::edm),
//! [`flow`](Process::flow) and [`ddpm`](Process::ddpm). Their time runs in (0, 1] too; what a network takes for it is
//! the network's affair ([`NetworkTime`](crate::spec::NetworkTime)).
//!
//! ```
//! use psld::process::{Process, Psld};
//!
//! let process = Process::psld(Psld { gamma: 0.02, nu: 4.02, ..Psld::default() })?;
//! assert_eq!(process.k(), 2);
//! let position = process.covariance(0.1)[(0, 0)];
//! assert!((position - 0.23416202188).abs() < 1e-11);
//! # Ok::<(), psld::Error>(())
//! ```
//!
//! # Accuracy
//! Transition, covariance, determinant, factor and its inverse are within 1e-9, relative, elementwise, for t
//! in [1e-7, 1], and bit-identical on every platform. The textbook form Σ = S + Φ (Σ₀ − S) Φᵀ cancels near the
//! data: at t = 1e-7 third-order Langevin has Σ₁₁ ~ b⁵ without momentum. VP, CLD and PSLD have closed forms
//! that do not, and so have the paths of k = 1; a general recipe is summed in double-double. The linear path `flow`
//! is meant for t up to 0.999.
//!
//! At t = 0 Σ is singular unless `numerical_eps` is positive, and L⁻¹, with all that is made from it, is not
//! finite.

mod closed;
mod dd;
mod linear;
mod mat;
mod path;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};
use closed::{Critical, Scalar};
use linear::Linear;
pub use mat::{MAX_K, Mat};
use path::{Path, Table};

/// β(t) = min + (max − min) t, the speed of the process. Both are finite and > 0; a decreasing β is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Beta {
    /// β(0).
    pub min: f64,
    /// β(1).
    pub max: f64,
}

impl Beta {
    /// β(t).
    pub fn at(&self, t: f64) -> f64 {
        self.min + (self.max - self.min) * t
    }

    /// ∫ β between two times; no difference of integrals, which would cancel on short steps.
    pub fn integral(&self, from: f64, to: f64) -> f64 {
        (to - from) * (self.min + 0.5 * (self.max - self.min) * (from + to))
    }
}

/// Which triangular factor of Σ the network's ε refers to (2303.01748).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decomposition {
    /// Σ = L Lᵀ with L lower triangular: all published runs.
    Lower,
    /// Σ = U Uᵀ with U upper triangular.
    Upper,
}

/// What the kernel of the network's ε is conditioned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreMatching {
    /// Hybrid score matching: p(z_t | x_0), momentum marginalised, Σ₀ = κ S without the position (CLD, PSLD).
    Hsm,
    /// Denoising score matching: p(z_t | x_0, m_0), Σ₀ = 0.
    Dsm,
}

/// A linear process by its constant matrices: F = −β (D + Q) S⁻¹, G Gᵀ = 2 β D.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// D, k x k, symmetric positive semidefinite: where noise enters.
    pub d: Mat,
    /// Q, k x k, skew-symmetric: what turns position into momentum and back.
    pub q: Mat,
    /// S, k x k, symmetric positive definite with S₁₁ = 1: the stationary covariance, which is the prior.
    pub s: Mat,
    /// β(t).
    pub beta: Beta,
    /// κ ≥ 0: Σ₀ is κ S with the position's row and column zero. It has no effect if k = 1.
    pub kappa: f64,
    /// Added to the diagonal of Σ(t); ≥ 0.
    pub numerical_eps: f64,
    /// The factor ε refers to.
    pub decomposition: Decomposition,
    /// The kernel ε refers to.
    pub score_matching: ScoreMatching,
}

impl Recipe {
    /// Third-order Langevin (arXiv 2404.12814) at critical damping: position, velocity and acceleration, noise
    /// on the acceleration only, S = I.
    ///
    /// D = ξ diag(0, 0, 1) and Q couples neighbours with strengths 1 and g; g = 2√2 and ξ = 3√3 make the drift's
    /// three eigenvalues coincide at −√3. Lower factor, HSM, no `numerical_eps`; the fields are there to be
    /// changed.
    pub fn third_order(beta: Beta, kappa: f64) -> Self {
        let (g, xi) = (2.0 * libm::sqrt(2.0), 3.0 * libm::sqrt(3.0));
        Self {
            d: Mat::diagonal(&[0.0, 0.0, xi]),
            q: Mat::from_rows([[0.0, -1.0, 0.0], [1.0, 0.0, -g], [0.0, g, 0.0]]),
            s: Mat::identity(3),
            beta,
            kappa,
            numerical_eps: 0.0,
            decomposition: Decomposition::Lower,
            score_matching: ScoreMatching::Hsm,
        }
    }
}

/// Parameters of PSLD (2303.01748) at critical damping, where the inverse mass is M⁻¹ = (Γ − ν)²/4.
///
/// The default is the published CIFAR-10 setting: β 8, Γ 0.01, ν 4.01, κ 0.04, lower, HSM, eps 1e-9.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Psld {
    /// β(0) > 0.
    pub beta_min: f64,
    /// β(1) > 0.
    pub beta_max: f64,
    /// Γ ≥ 0, the friction and noise of the position.
    pub gamma: f64,
    /// ν ≥ 0, the friction and noise of the momentum; ν ≠ Γ.
    pub nu: f64,
    /// κ ≥ 0: the momentum starts as N(0, κM).
    pub kappa: f64,
    /// The factor ε refers to.
    pub decomposition: Decomposition,
    /// The kernel ε refers to.
    pub score_matching: ScoreMatching,
    /// Added to the diagonal of Σ(t); ≥ 0. As published: 1e-9.
    pub numerical_eps: f64,
}

impl Default for Psld {
    fn default() -> Self {
        Self {
            beta_min: 8.0,
            beta_max: 8.0,
            gamma: 0.01,
            nu: 4.01,
            kappa: 0.04,
            decomposition: Decomposition::Lower,
            score_matching: ScoreMatching::Hsm,
            numerical_eps: 1e-9,
        }
    }
}

/// Parameters of critically damped Langevin diffusion (arXiv 2112.07068): PSLD without noise on the position,
/// and M⁻¹ = ν²/4.
///
/// The default is the published setting in PSLD's scaling: β 8, ν 4, κ 0.04, lower, HSM, eps 1e-9.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cld {
    /// β(0) > 0.
    pub beta_min: f64,
    /// β(1) > 0.
    pub beta_max: f64,
    /// ν > 0, the friction and noise of the momentum.
    pub nu: f64,
    /// κ ≥ 0: the momentum starts as N(0, κM). (The paper calls it γ.)
    pub kappa: f64,
    /// The factor ε refers to.
    pub decomposition: Decomposition,
    /// The kernel ε refers to.
    pub score_matching: ScoreMatching,
    /// Added to the diagonal of Σ(t); ≥ 0. As published: 1e-9.
    pub numerical_eps: f64,
}

impl Default for Cld {
    fn default() -> Self {
        let Psld { beta_min, beta_max, kappa, decomposition, score_matching, numerical_eps, .. } =
            Psld::default();
        Self { beta_min, beta_max, nu: 4.0, kappa, decomposition, score_matching, numerical_eps }
    }
}

/// The kernel at one time; for `covariance` C: `factor` L with C = L Lᵀ, and L⁻¹.
struct Kernel {
    covariance: Mat,
    determinant: f64,
    factor: Mat,
    inverse_factor: Mat,
}

/// How a path is evaluated: one arm per closed form.
#[derive(Clone, Debug, PartialEq)]
enum Solution {
    Scalar(Scalar),
    Critical(Critical),
    Linear(Box<Linear>),
}

impl Solution {
    /// A = −(D + Q) S⁻¹.
    fn drift(&self) -> Mat {
        match self {
            Self::Scalar(s) => s.drift(),
            Self::Critical(s) => s.drift(),
            Self::Linear(s) => s.drift(),
        }
    }

    fn transition(&self, b: f64) -> Mat {
        match self {
            Self::Scalar(s) => s.transition(b),
            Self::Critical(s) => s.transition(b),
            Self::Linear(s) => s.transition(b),
        }
    }

    fn noise(&self, b: f64) -> Mat {
        match self {
            Self::Scalar(s) => s.noise(b),
            Self::Critical(s) => s.noise(b),
            Self::Linear(s) => s.noise(b),
        }
    }

    /// With Σ₀ if `initial`, else from a known starting point.
    fn kernel(&self, b: f64, initial: bool, eps: f64, decomposition: Decomposition) -> Kernel {
        match self {
            Self::Scalar(s) => s.kernel(b, eps),
            Self::Critical(s) => s.kernel(b, initial, eps, decomposition),
            Self::Linear(s) => s.kernel(b, initial, eps, decomposition),
        }
    }
}

/// A Gaussian path: z_t | x_0 ~ N(a(t) x_0, Σ(t)), dz = F(t) z dt + G(t) dw. See the [module](self).
///
/// Immutable. Its methods compute what they return, so coefficients are meant to be asked for once, when a
/// sampler is made. Times are forward times in (0, 1], further bounded by [`times`](Self::times).
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    label: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    Recipe(Box<Instance>),
    Path(Path),
}

/// An instance of the recipe.
#[derive(Clone, Debug, PartialEq)]
struct Instance {
    recipe: Recipe,
    /// A = −(D + Q) S⁻¹.
    drift: Mat,
    prior_factor: Mat,
    solution: Solution,
}

fn scalar(x: f64) -> Mat {
    Mat::from_rows([[x]])
}

impl Instance {
    fn transition(&self, from: f64, to: f64) -> Mat {
        self.solution.transition(self.recipe.beta.integral(from, to))
    }

    fn kernel(&self, t: f64, score_matching: ScoreMatching) -> Kernel {
        let initial = score_matching == ScoreMatching::Hsm;
        let Recipe { beta, numerical_eps, decomposition, .. } = self.recipe;
        self.solution.kernel(beta.integral(0.0, t), initial, numerical_eps, decomposition)
    }

    /// Noise must reach every coordinate (Kalman's rank condition): then Σ(t) is positive definite for t > 0,
    /// and, by Lyapunov's theorem, the process converges to S from any start.
    fn check_noise(&self) -> Result<()> {
        // Over one time scale of the drift, which is the process's own and not β's.
        let b = 1.0 / self.drift.norm_inf();
        let kernel = self.solution.kernel(b, false, 0.0, Decomposition::Lower);
        let scale = (0..self.drift.rows()).fold(1.0, |product, i| product * kernel.covariance[(i, i)]);
        // The fraction of the volume that correlations leave; NaN without any noise, 1e-31 of rounding if singular.
        let volume = kernel.determinant / scale;
        if volume.is_nan() || volume <= 1e-20 {
            return Err(Error::argument(format!(
                "`d` is {:?} and `q` is {:?}; the noise of d must reach every coordinate, directly or \
                 through q",
                self.recipe.d, self.recipe.q
            )));
        }
        Ok(())
    }

    /// Parameters can be valid one by one and still leave the range of f64 together.
    fn check_range(&self) -> Result<()> {
        for t in [1e-7, 1.0] {
            let kernel = self.kernel(t, self.recipe.score_matching);
            let finite =
                [kernel.factor, kernel.inverse_factor, self.transition(0.0, t), self.transition(t, 0.0)];
            if !(kernel.determinant > 0.0 && finite.iter().all(Mat::is_finite)) {
                return Err(Error::argument(format!(
                    "`beta_min` is {:?}, `beta_max` is {:?}, and the drift per unit of beta is {:?}; the kernel at \
                     t = {t:?} must be finite and positive definite in double precision, and is not",
                    self.recipe.beta.min, self.recipe.beta.max, self.drift
                )));
            }
        }
        Ok(())
    }
}

impl Process {
    /// Any linear process with constant D, Q, S, of k = 1 to [`MAX_K`] coordinates.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), naming the parameter and the rule.
    pub fn recipe(recipe: Recipe) -> Result<Self> {
        let Recipe { d, q, s, kappa, .. } = recipe;
        let build = || {
            check_matrices(&recipe)?;
            let solution = match d.rows() {
                1 => Solution::Scalar(Scalar { d: d[(0, 0)] }),
                _ => Solution::Linear(Box::new(Linear::new(&d, &q, &s, kappa))),
            };
            Self::new(format!("recipe of k = {}", d.rows()), recipe, solution)
        };
        build().map_err(|e: Error| e.context("recipe"))
    }

    /// The variance-preserving process of arXiv 2011.13456, k = 1: a = exp(−b/2), Σ = 1 − exp(−b).
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), naming the parameter and the rule.
    pub fn vp(beta_min: f64, beta_max: f64, numerical_eps: f64) -> Result<Self> {
        let recipe = Recipe {
            d: Mat::from_rows([[0.5]]),
            q: Mat::zeros(1, 1),
            s: Mat::identity(1),
            beta: Beta { min: beta_min, max: beta_max },
            kappa: 0.0,
            numerical_eps,
            decomposition: Decomposition::Lower,
            score_matching: ScoreMatching::Hsm,
        };
        Self::new("vp".into(), recipe, Solution::Scalar(Scalar { d: 0.5 })).map_err(|e| e.context("vp"))
    }

    /// PSLD, k = 2: D = ½ diag(Γ, Mν), Q = ½ [[0, −1], [1, 0]], S = diag(1, M), M⁻¹ = (Γ − ν)²/4.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), naming the parameter and the rule.
    pub fn psld(psld: Psld) -> Result<Self> {
        let label = format!("psld with gamma = {}, nu = {}", psld.gamma, psld.nu);
        Self::langevin(psld, label).map_err(|e| e.context("psld"))
    }

    /// CLD, k = 2: [PSLD](Self::psld) with Γ = 0.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), naming the parameter and the rule.
    pub fn cld(cld: Cld) -> Result<Self> {
        let Cld { beta_min, beta_max, nu, kappa, decomposition, score_matching, numerical_eps } = cld;
        let gamma = 0.0;
        let psld =
            Psld { beta_min, beta_max, gamma, nu, kappa, decomposition, score_matching, numerical_eps };
        let build = || {
            check_positive("nu", nu)?;
            Self::langevin(psld, format!("cld with nu = {nu}"))
        };
        build().map_err(|e: Error| e.context("cld"))
    }

    /// The variance-exploding process of arXiv 2011.13456, k = 1: a = 1, Σ = σ² with σ = σ_min (σ_max/σ_min)^t, so that
    /// a part σ_min² of the noise is there at t = 0. The prior is N(0, σ_max²).
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), naming the parameter and the rule.
    pub fn ve(sigma_min: f64, sigma_max: f64) -> Result<Self> {
        let label = format!("ve with sigma = {sigma_min:?} to {sigma_max:?}");
        Path::ve(sigma_min, sigma_max).map(|path| Self::path(label, path)).map_err(|e| e.context("ve"))
    }

    /// The path of EDM (arXiv 2206.00364), k = 1, whose time is the noise level: a = 1, Σ = σ² with σ = σ_max t, meant
    /// for σ from σ_min on. The prior is N(0, σ_max²).
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), naming the parameter and the rule.
    pub fn edm(sigma_min: f64, sigma_max: f64) -> Result<Self> {
        let label = format!("edm with sigma = {sigma_min:?} to {sigma_max:?}");
        Path::edm(sigma_min, sigma_max).map(|path| Self::path(label, path)).map_err(|e| e.context("edm"))
    }

    /// The linear path of flow matching and rectified flow (arXiv 2210.02747, 2209.03003), k = 1: a = 1 − t, Σ = t².
    /// The prior is N(0, 1). It is meant for t up to 0.999, as F is infinite at t = 1.
    pub fn flow() -> Self {
        Self::path("flow".into(), Path::Flow)
    }

    /// The variance-preserving path through the entries of a table of betas (DDPM, arXiv 2006.11239), k = 1: entry i of
    /// N, counted from 0, has t = (i + 1)/N and a² = 1 − Σ = ∏_{j ≤ i} (1 − β_j). The prior is N(0, 1).
    ///
    /// Between entries −ln a² is a monotone cubic in t with a continuous slope β(t).
    ///
    /// # Errors
    /// [`Status::InvalidArgument`](crate::Status::InvalidArgument), naming the entry and the rule.
    pub fn ddpm(betas: &[f64]) -> Result<Self> {
        let label = format!("ddpm of {} betas", betas.len());
        Table::new(betas).map(|table| Self::path(label, Path::Ddpm(table))).map_err(|e| e.context("ddpm"))
    }

    fn path(label: String, path: Path) -> Self {
        Self { label, form: Form::Path(path) }
    }

    fn langevin(psld: Psld, label: String) -> Result<Self> {
        let Psld { gamma, nu, kappa, .. } = psld;
        check_not_negative("gamma", gamma)?;
        check_not_negative("nu", nu)?;
        if gamma == 0.0 && nu == 0.0 {
            return Err(Error::argument(
                "`gamma` and `nu` are both 0; one of them must be > 0, or nothing diffuses",
            ));
        }
        let mass_inverse = (gamma - nu) * (gamma - nu) / 4.0;
        let mass = 1.0 / mass_inverse;
        if !(mass.is_finite() && mass > 0.0) {
            return Err(Error::argument(format!(
                "`gamma` is {gamma:?} and `nu` is {nu:?}; they must differ: critical damping makes the inverse mass \
                 (gamma - nu)^2/4 = {mass_inverse:?}, which must be finite and > 0"
            )));
        }
        let recipe = Recipe {
            d: Mat::diagonal(&[0.5 * gamma, 0.5 * mass * nu]),
            q: Mat::from_rows([[0.0, -0.5], [0.5, 0.0]]),
            s: Mat::diagonal(&[1.0, mass]),
            beta: Beta { min: psld.beta_min, max: psld.beta_max },
            kappa,
            numerical_eps: psld.numerical_eps,
            decomposition: psld.decomposition,
            score_matching: psld.score_matching,
        };
        Self::new(label, recipe, Solution::Critical(Critical::new(gamma, nu, kappa)))
    }

    /// What all constructors share: the scalar parameters, and that the kernel exists on the whole path.
    fn new(label: String, recipe: Recipe, solution: Solution) -> Result<Self> {
        check_positive("beta_min", recipe.beta.min)?;
        check_positive("beta_max", recipe.beta.max)?;
        check_not_negative("kappa", recipe.kappa)?;
        check_not_negative("numerical_eps", recipe.numerical_eps)?;

        let drift = solution.drift();
        let prior_factor = match recipe.decomposition {
            Decomposition::Lower => recipe.s.cholesky_lower()?,
            Decomposition::Upper => recipe.s.cholesky_upper()?,
        };
        let instance = Instance { recipe, drift, prior_factor, solution };
        instance.check_noise()?;
        instance.check_range()?;
        Ok(Self { label, form: Form::Recipe(Box::new(instance)) })
    }

    /// Coordinates per data dimension: every matrix here is k x k unless it says otherwise.
    pub fn k(&self) -> usize {
        match &self.form {
            Form::Recipe(instance) => instance.drift.rows(),
            Form::Path(_) => 1,
        }
    }

    /// The parameters as D, Q, S; `None` for `ve`, `edm`, `flow` and `ddpm`, which are no recipes.
    pub fn parameters(&self) -> Option<&Recipe> {
        match &self.form {
            Form::Recipe(instance) => Some(&instance.recipe),
            Form::Path(_) => None,
        }
    }

    /// First and last time that the path is meant for: 1e-7 and 1, but σ_min/σ_max and 1 for `edm`, 1/N and 1 for a
    /// `ddpm` of N entries, 1e-7 and 0.999 for `flow`.
    pub fn times(&self) -> (f64, f64) {
        match &self.form {
            Form::Recipe(_) => (1e-7, 1.0),
            Form::Path(path) => path.times(),
        }
    }

    /// The number of entries of a `ddpm`'s table.
    pub fn entries(&self) -> Option<usize> {
        match &self.form {
            Form::Path(Path::Ddpm(table)) => Some(table.len()),
            _ => None,
        }
    }

    /// Whether the noise explodes while the data keep their scale: `ve` and `edm`.
    pub(crate) fn explodes(&self) -> bool {
        matches!(self.form, Form::Path(Path::Ve { .. } | Path::Edm { .. }))
    }

    /// What was added to the diagonal of Σ(t).
    pub fn numerical_eps(&self) -> f64 {
        self.parameters().map_or(0.0, |recipe| recipe.numerical_eps)
    }

    /// The factor that ε refers to.
    pub fn decomposition(&self) -> Decomposition {
        self.parameters().map_or(Decomposition::Lower, |recipe| recipe.decomposition)
    }

    /// The kernel that ε refers to.
    pub fn score_matching(&self) -> ScoreMatching {
        self.parameters().map_or(ScoreMatching::Hsm, |recipe| recipe.score_matching)
    }

    /// F(t); of a recipe β(t) A, with A = −(D + Q) S⁻¹.
    pub fn drift(&self, t: f64) -> Mat {
        match &self.form {
            Form::Recipe(instance) => instance.drift * instance.recipe.beta.at(t),
            Form::Path(path) => scalar(path.drift(t)),
        }
    }

    /// G(t) G(t)ᵀ; of a recipe 2 β(t) D.
    pub fn diffusion(&self, t: f64) -> Mat {
        match &self.form {
            Form::Recipe(instance) => instance.recipe.d * (2.0 * instance.recipe.beta.at(t)),
            Form::Path(path) => scalar(path.diffusion(t)),
        }
    }

    /// Ψ(from → to), the mean map between two times in any order; of a recipe exp(A (b(to) − b(from))).
    pub fn transition(&self, from: f64, to: f64) -> Mat {
        match &self.form {
            Form::Recipe(instance) => instance.transition(from, to),
            Form::Path(path) => scalar(path.transition(from, to)),
        }
    }

    /// a(t), k x 1: the mean of z_t is a(t) x_0. The first column of Ψ(0 → t), as momenta start with mean 0.
    pub fn mean(&self, t: f64) -> Mat {
        self.transition(0.0, t).column(0)
    }

    /// The covariance of the noise that the forward process adds between two times, `from` < `to`:
    /// ∫ Ψ(s → to) G Gᵀ Ψ(s → to)ᵀ ds, without `numerical_eps`.
    ///
    /// Relative accuracy holds on steps of any length. With the times exchanged the integral changes sign.
    pub fn added_noise(&self, from: f64, to: f64) -> Mat {
        match &self.form {
            Form::Recipe(instance) => instance.solution.noise(instance.recipe.beta.integral(from, to)),
            Form::Path(path) => scalar(path.noise(from, to)),
        }
    }

    fn kernel(&self, t: f64) -> Kernel {
        self.kernel_from(t, self.score_matching())
    }

    fn kernel_from(&self, t: f64, score_matching: ScoreMatching) -> Kernel {
        match &self.form {
            Form::Recipe(instance) => instance.kernel(t, score_matching),
            Form::Path(path) => {
                let variance = path.variance(t);
                let deviation = libm::sqrt(variance);
                Kernel {
                    covariance: scalar(variance),
                    determinant: variance,
                    factor: scalar(deviation),
                    inverse_factor: scalar(1.0 / deviation),
                }
            }
        }
    }

    /// Σ(t), the covariance of the kernel that ε refers to: of z_t given x_0 (HSM), or given x_0 and m_0 (DSM);
    /// with `numerical_eps` on the diagonal.
    pub fn covariance(&self, t: f64) -> Mat {
        self.kernel(t).covariance
    }

    /// The covariance of z_t given x_0 alone, whatever the network was trained with; with `numerical_eps`.
    ///
    /// The same as [`covariance`](Self::covariance) for HSM. For DSM it also holds the spread of m_0 ~ N(0, κM),
    /// which ε does not cover but the law of z_t does: exact scores are made from this one.
    pub fn data_covariance(&self, t: f64) -> Mat {
        self.kernel_from(t, ScoreMatching::Hsm).covariance
    }

    /// The triangular factor of [`data_covariance`](Self::data_covariance), and its inverse
    /// ([`whitening`](Self::whitening)).
    pub fn data_factor(&self, t: f64) -> (Mat, Mat) {
        let kernel = self.kernel_from(t, ScoreMatching::Hsm);
        (kernel.factor, kernel.inverse_factor)
    }

    /// det Σ(t), without the cancellation of [`Mat::det`].
    pub fn determinant(&self, t: f64) -> f64 {
        self.kernel(t).determinant
    }

    /// L(t) with Σ = L Lᵀ, triangular as [`decomposition`](Self::decomposition) says: z_t = a x_0 + L ε.
    pub fn factor(&self, t: f64) -> Mat {
        self.kernel(t).factor
    }

    /// L(t)⁻¹.
    pub fn inverse_factor(&self, t: f64) -> Mat {
        self.kernel(t).inverse_factor
    }

    /// −L⁻ᵀ, which turns ε into the score ∇ log p_t (2112.07068, section 3.2).
    pub fn score_from_eps(&self, t: f64) -> Mat {
        -self.inverse_factor(t).transpose()
    }

    /// −Lᵀ, which turns the score into ε.
    pub fn eps_from_score(&self, t: f64) -> Mat {
        -self.factor(t).transpose()
    }

    /// C(t)⁻¹ᐟ², the inverse of the triangular factor of [`data_covariance`](Self::data_covariance): turns
    /// z_t − a x_0 into standard normals.
    pub fn whitening(&self, t: f64) -> Mat {
        self.kernel_from(t, ScoreMatching::Hsm).inverse_factor
    }

    /// What turns the whitened residual E[C⁻¹ᐟ² (z − a x_0) | z] into the exact ε, −Lᵀ times the score: the
    /// identity under HSM. Under DSM, L leaves the spread of m_0 out and C does not.
    pub fn eps_from_whitened(&self, t: f64) -> Mat {
        match self.score_matching() {
            ScoreMatching::Hsm => Mat::identity(self.k()),
            ScoreMatching::Dsm => self.factor(t).transpose() * self.whitening(t).transpose(),
        }
    }

    /// The x_0 that ε implies: 1 x k weights (on z, on ε), the first row of Ψ(t → 0) (z − L ε).
    ///
    /// Exact for the exact ε; the other rows, the momenta at t = 0, are then zero under HSM.
    /// Near t = 1 it divides by what little of x_0 is left.
    pub fn x0_from_eps(&self, t: f64) -> (Mat, Mat) {
        let on_z = self.transition(t, 0.0).row(0);
        (on_z, -(on_z * self.factor(t)))
    }

    /// The 1 x k weights w = aᵀ C⁻¹ / (aᵀ C⁻¹ a) with C the [`data_covariance`](Self::data_covariance).
    ///
    /// w z_t is the unbiased estimate of x_0 of least variance, 1 / (aᵀ C⁻¹ a), and sufficient for x_0: what a
    /// denoiser of plain Gaussian noise needs to see of a phase-space state.
    pub fn x0_weights(&self, t: f64) -> Mat {
        let (whitening, y, snr) = self.whitened_mean(t);
        y.transpose() * whitening * (1.0 / snr)
    }

    /// λ(t) = ½ ln(aᵀ C⁻¹ a) with C the [`data_covariance`](Self::data_covariance): half the log of the
    /// signal-to-noise ratio; ln(α/σ) for k = 1. Decreasing in t.
    pub fn log_snr(&self, t: f64) -> f64 {
        0.5 * libm::log(self.whitened_mean(t).2)
    }

    /// The time in [`low`, `high`] where [`log_snr`](Self::log_snr) is `target`, to the last bits; the nearer end where
    /// that is outside.
    pub fn time_of_log_snr(&self, target: f64, low: f64, high: f64) -> f64 {
        // log_snr decreases; bisection in ln t.
        let (mut a, mut b) = (libm::log(low), libm::log(high));
        for _ in 0..100 {
            let middle = 0.5 * (a + b);
            if middle <= a || middle >= b {
                break;
            }
            if self.log_snr(libm::exp(middle)) > target { a = middle } else { b = middle }
        }
        libm::exp(0.5 * (a + b)).clamp(low, high)
    }

    /// L⁻¹, y = L⁻¹ a and |y|² = aᵀ C⁻¹ a, for C = L Lᵀ the covariance of z_t given x_0.
    pub(crate) fn whitened_mean(&self, t: f64) -> (Mat, Mat, f64) {
        let whitening = self.whitening(t);
        let y = whitening * self.mean(t);
        (whitening, y, (y.transpose() * y)[(0, 0)])
    }

    /// The covariance of the prior: S of a recipe, σ_max² of `ve` and `edm`, 1 of `flow` and `ddpm`.
    pub fn prior_covariance(&self) -> Mat {
        match &self.form {
            Form::Recipe(instance) => instance.recipe.s,
            Form::Path(path) => scalar(path.prior()),
        }
    }

    /// The triangular factor of the [`prior_covariance`](Self::prior_covariance): a draw from the prior is this times
    /// standard normals.
    pub fn prior_factor(&self) -> Mat {
        match &self.form {
            Form::Recipe(instance) => instance.prior_factor,
            Form::Path(path) => scalar(libm::sqrt(path.prior())),
        }
    }

    /// The triangular factor of C(t) + a aᵀ, the covariance of z_t for data of unit variance: the prior of a run that
    /// starts at a time where something of the data is left.
    ///
    /// # Errors
    /// [`Status::Numeric`](crate::Status::Numeric) where that is not positive definite in double precision.
    pub fn marginal_factor(&self, t: f64) -> Result<Mat> {
        let a = self.mean(t);
        let covariance = self.data_covariance(t) + a * a.transpose();
        match self.decomposition() {
            Decomposition::Lower => covariance.cholesky_lower(),
            Decomposition::Upper => covariance.cholesky_upper(),
        }
    }

    /// The process with −Q in place of Q: the half of the reverse-time dynamics that is solved exactly in SSCS
    /// (2112.07068, section 3.3), for any recipe.
    ///
    /// Splitting the reverse drift −F z + G Gᵀ s into (D − Q)-friction and the rest leaves the Ornstein-Uhlenbeck
    /// process dz = −β (D − Q) S⁻¹ z dτ + G dw, which has the same stationary law. A reverse step from t to u < t
    /// takes its `transition(u, t)` and `added_noise(u, t)`. `None` for paths that are not recipes.
    pub fn time_reversed_ou(&self) -> Option<Self> {
        let Form::Recipe(instance) = &self.form else { return None };
        let Instance { recipe, prior_factor, solution, .. } = &**instance;
        let Recipe { d, s, kappa, .. } = *recipe;
        let recipe = Recipe { q: -recipe.q, ..*recipe };
        let solution = match solution {
            Solution::Scalar(scalar) => Solution::Scalar(scalar.clone()),
            Solution::Critical(critical) => Solution::Critical(critical.reversed()),
            Solution::Linear(_) => Solution::Linear(Box::new(Linear::new(&d, &recipe.q, &s, kappa))),
        };
        let instance = Instance { drift: solution.drift(), recipe, prior_factor: *prior_factor, solution };
        let label = format!("{}, time-reversed", self.label);
        Some(Self { label, form: Form::Recipe(Box::new(instance)) })
    }

    /// The process with Q = 0, friction and its noise alone: the part of the reverse-time dynamics that stochastic
    /// splittings solve exactly (2310.07894), for any recipe.
    ///
    /// dz = −β D S⁻¹ z dτ + G dw, which has the stationary law N(0, S) too. `position` ≥ 0 scales friction and noise of
    /// the position (the row and column 0 of D, by its square root each); 1 is exact. A reverse step from t to u < t
    /// takes its `transition(u, t)` and `added_noise(u, t)`. `None` for paths that are not recipes.
    pub fn friction(&self, position: f64) -> Option<Self> {
        let Form::Recipe(instance) = &self.form else { return None };
        let Instance { recipe, prior_factor, .. } = &**instance;
        let Recipe { d, q, s, kappa, .. } = *recipe;
        let scale = |i: usize| if i == 0 { libm::sqrt(position) } else { 1.0 };
        let d = Mat::from_fn(d.rows(), d.cols(), |i, j| scale(i) * d[(i, j)] * scale(j));
        let recipe = Recipe { d, q: q * 0.0, ..*recipe };
        let solution = Solution::Linear(Box::new(Linear::new(&d, &recipe.q, &s, kappa)));
        let instance = Instance { drift: solution.drift(), recipe, prior_factor: *prior_factor, solution };
        let label = format!("{}, friction alone", self.label);
        Some(Self { label, form: Form::Recipe(Box::new(instance)) })
    }
}

/// A short description for messages: `psld with gamma = 0.01, nu = 4.01`.
impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

fn check_positive(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::argument(format!("`{name}` is {value:?}; it must be finite and > 0")))
}

fn check_not_negative(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::argument(format!("`{name}` is {value:?}; it must be finite and >= 0")))
}

/// The rules of the recipe for D, Q and S.
fn check_matrices(recipe: &Recipe) -> Result<()> {
    let Recipe { d, q, s, .. } = recipe;
    let k = d.rows();
    for (name, m) in [("d", d), ("q", q), ("s", s)] {
        if (m.rows(), m.cols()) != (k, k) {
            return Err(Error::argument(format!(
                "`{name}` is {} x {}; d, q and s must be square and of one size, and d has {k} rows",
                m.rows(),
                m.cols()
            )));
        }
        if !m.is_finite() {
            return Err(Error::argument(format!("`{name}` is {m:?}; its elements must be finite")));
        }
    }
    for (name, m) in [("d", d), ("s", s)] {
        if *m != m.transpose() {
            return Err(Error::argument(format!("`{name}` is {m:?}; it must be symmetric")));
        }
    }
    if *q != -q.transpose() {
        return Err(Error::argument(format!("`q` is {q:?}; it must be skew-symmetric: q\u{1d40} = -q")));
    }
    let lowest = d.symmetric_eigen().0[..k].iter().copied().fold(f64::INFINITY, f64::min);
    // An eigenvalue that is zero comes out as a rounding error of either sign.
    if lowest < -1e-12 * d.max_abs() {
        return Err(Error::argument(format!(
            "`d` is {d:?}; it must be positive semidefinite, and has the eigenvalue {lowest:?}"
        )));
    }
    if s.cholesky_lower().is_err() || s.cholesky_upper().is_err() {
        return Err(Error::argument(format!("`s` is {s:?}; it must be positive definite")));
    }
    if s[(0, 0)] != 1.0 {
        return Err(Error::argument(format!(
            "`s` is {s:?}; s[0][0], the stationary variance of the position, must be 1"
        )));
    }
    Ok(())
}
