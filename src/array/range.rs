//! Values that are in other units, perhaps.

use super::Tensor;

/// Warns, to whoever listens to [`crate::log`], where one of `values` is farther out of a data range than half its width.
pub fn warn_of_range(name: &str, values: &Tensor, range: [f64; 2]) {
    warn_of_known(name, values, None, range, 0.0);
}

/// [`warn_of_range`] of what a mask, if there is one, does not hide (is not 0), with `more` room.
pub(crate) fn warn_of_known(name: &str, values: &Tensor, mask: Option<&Tensor>, range: [f64; 2], more: f64) {
    if !crate::log::is_heard() {
        return;
    }
    let [low, high] = range;
    let middle = 0.5 * (low + high);
    let far = high - low + more;
    let out = |x: f64| (x - middle).abs() > far;
    if values.find(out).is_none() {
        return;
    }
    let extreme = |all: &mut dyn Iterator<Item = f64>| {
        all.filter(|x| out(*x)).max_by(|x, y| (x - middle).abs().total_cmp(&(y - middle).abs()))
    };
    let double = |tensor: &Tensor| match tensor {
        Tensor::F32(a) => a.mapv(f64::from),
        Tensor::F64(a) => a.clone(),
    };
    let found = match mask {
        None => extreme(&mut double(values).iter().copied()),
        Some(mask) => {
            let (values, mask) = (double(values), double(mask));
            let shape: Vec<usize> = values.shape().iter().zip(mask.shape()).map(|(x, y)| *x.max(y)).collect();
            let (Some(values), Some(mask)) = (values.broadcast(shape.clone()), mask.broadcast(shape)) else {
                return;
            };
            extreme(&mut values.iter().zip(&mask).filter(|(_, mask)| **mask != 0.0).map(|(x, _)| *x))
        }
    };
    if let Some(x) = found {
        crate::log::warn(|| {
            format!(
                "{name}: a value is {x}, far out of the data range {low} to {high}: is it in other units?"
            )
        });
    }
}
