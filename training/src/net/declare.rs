//! Reads a network for its parameters, and for mistakes.

use std::collections::HashSet;

use psld::{Error, Result};

use super::ParamSpec;
use super::ops::{Conv, Init, Kernel, Layer, Ops};

/// The implementation of [`Ops`] whose tensors are shapes only.
///
/// As the operations cannot fail, the first mistake is kept and what follows from it is of no interest.
#[derive(Default)]
pub(super) struct Declare {
    parameters: Vec<ParamSpec>,
    names: HashSet<String>,
    error: Option<Error>,
}

impl Declare {
    /// The parameters in the order of their declaration, or the first mistake.
    pub fn finish(self) -> Result<Vec<ParamSpec>> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.parameters),
        }
    }

    /// Remembers that `rule` is broken, if it is the first one.
    fn expect(&mut self, holds: bool, rule: impl FnOnce() -> String) {
        if !holds && self.error.is_none() {
            // What is wrong shows in the layer whose parameters were declared last.
            let place = self.parameters.last().map_or("the network's input", |p| &p.name);
            self.error = Some(Error::argument(format!("network, at {place}: {}", rule())));
        }
    }
}

impl Ops for Declare {
    type T = Vec<usize>;
    type P = Vec<usize>;

    fn param(&mut self, name: &str, shape: &[usize], init: Init) -> Vec<usize> {
        let spec = ParamSpec { name: name.to_owned(), shape: shape.to_vec(), init, trained: init.trained() };
        self.parameters.push(spec);
        let new = self.names.insert(name.to_owned());
        self.expect(new, || "two parameters have this name".into());
        shape.to_vec()
    }

    fn constant(&mut self, values: Vec<f32>) -> Vec<usize> {
        vec![values.len()]
    }

    fn scaled(&mut self, p: &Vec<usize>, _: f64) -> Vec<usize> {
        p.clone()
    }

    fn sum(&mut self, p: &Vec<usize>, _: &Vec<usize>) -> Vec<usize> {
        p.clone()
    }

    fn shape(&self, x: &Vec<usize>) -> Vec<usize> {
        x.clone()
    }

    fn conv2d(
        &mut self,
        x: &Vec<usize>,
        weight: &Vec<usize>,
        _: Option<&Vec<usize>>,
        how: Conv,
    ) -> Vec<usize> {
        let size = |size| how.size(size, weight[2]);
        let (height, width) = (size(x[1]), size(x[2]));
        self.expect(x[0] == weight[1] && height.is_some() && width.is_some(), || {
            format!("a convolution with weights {weight:?} does not fit {x:?}")
        });
        vec![weight[0], height.unwrap_or(0), width.unwrap_or(0)]
    }

    fn linear(&mut self, x: &Vec<usize>, weight: &Vec<usize>, _: Option<&Vec<usize>>) -> Vec<usize> {
        self.expect(x[..] == weight[1..], || format!("a linear map {weight:?} does not fit {x:?}"));
        vec![weight[0]]
    }

    fn pixelwise(&mut self, x: &Vec<usize>, map: &Layer<Vec<usize>>) -> Vec<usize> {
        self.expect(x[0] == map.weight[0], || format!("channel mixing {:?} does not fit {x:?}", map.weight));
        vec![map.weight[1], x[1], x[2]]
    }

    fn group_norm(&mut self, x: &Vec<usize>, groups: usize, _: &Vec<usize>, _: &Vec<usize>) -> Vec<usize> {
        self.expect(x[0].is_multiple_of(groups), || {
            format!("{} channels cannot be divided into {groups} groups; change nf or ch_mult", x[0])
        });
        x.clone()
    }

    fn attention(&mut self, x: &Vec<usize>, _: &[Layer<Vec<usize>>; 4]) -> Vec<usize> {
        x.clone()
    }

    fn silu(&mut self, x: &Vec<usize>) -> Vec<usize> {
        x.clone()
    }

    fn add(&mut self, x: &Vec<usize>, y: &Vec<usize>) -> Vec<usize> {
        self.expect(x == y, || format!("{x:?} and {y:?} cannot be added"));
        x.clone()
    }

    fn scale(&mut self, x: &Vec<usize>, _: f64) -> Vec<usize> {
        x.clone()
    }

    fn shift(&mut self, x: &Vec<usize>, by: &Vec<usize>) -> Vec<usize> {
        self.expect(x[..1] == by[..], || format!("{x:?} cannot be shifted by {by:?}"));
        x.clone()
    }

    fn concat(&mut self, x: &Vec<usize>, y: &Vec<usize>) -> Vec<usize> {
        self.expect(x[1..] == y[1..], || format!("{x:?} and {y:?} cannot be joined"));
        std::iter::once(x[0] + y[0]).chain(x[1..].iter().copied()).collect()
    }

    fn reshape(&mut self, x: &Vec<usize>, shape: &[usize]) -> Vec<usize> {
        let same = x.iter().product::<usize>() == shape.iter().product::<usize>();
        self.expect(same, || format!("{x:?} cannot become {shape:?}"));
        shape.to_vec()
    }

    fn dropout(&mut self, x: &Vec<usize>) -> Vec<usize> {
        x.clone()
    }

    fn upsample(&mut self, x: &Vec<usize>) -> Vec<usize> {
        vec![x[0], 2 * x[1], 2 * x[2]]
    }

    fn halve(&mut self, x: &Vec<usize>) -> Vec<usize> {
        vec![x[0], x[1] / 2, x[2] / 2]
    }

    fn filter(&mut self, x: &Vec<usize>, kernel: &Kernel, how: Conv) -> Vec<usize> {
        let size = |size| how.size(size, kernel.taps.len()).unwrap_or(0);
        vec![x[0], size(x[1]), size(x[2])]
    }

    fn ln(&mut self, t: &Vec<usize>) -> Vec<usize> {
        t.clone()
    }

    fn waves(&mut self, _: &Vec<usize>, frequencies: &Vec<usize>, _: f64) -> Vec<usize> {
        vec![2 * frequencies[0]]
    }

    fn embed(&mut self, _: &Vec<usize>, table: &Vec<usize>) -> Vec<usize> {
        vec![table[1]]
    }
}
