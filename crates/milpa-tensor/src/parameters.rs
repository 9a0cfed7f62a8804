//! Named parameters with their gradients.
//!
//! Gradients add up over backward passes (micro-batches) until [`ParameterStore::clear_grads`].
//! The store knows no optimiser: it hands out weight and gradient buffers side by side, in the
//! order in which parameters were added, and an optimiser keeps its state beside them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use milpa_kernels::{Accumulate, quantised::BlockFormat};

use crate::{
    buffer::Buffer,
    device::Device,
    error::TensorError,
    shape::Shape,
    tape::{Source, Tensor},
};

/// Numbers stores, so that a leaf of one store is not taken for a leaf of another.
static STORES: AtomicU64 = AtomicU64::new(0);

/// Which parameter of a [`ParameterStore`]; counted from 0 in the order of adding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId(pub(crate) usize);

impl ParameterId {
    /// The parameter's place in the store.
    pub fn index(self) -> usize {
        self.0
    }
}

/// One parameter.
#[derive(Debug)]
pub struct Parameter {
    name: String,
    shape: Shape,
    data: Arc<Buffer>,
    rounded: Rounded,
    /// Kept between steps; its content counts only if `has_grad`.
    grad: Option<Buffer>,
    has_grad: bool,
    decay: bool,
    trainable: bool,
}

/// The values of a parameter in bf16, made when a product first asks for them and forgotten when
/// the values change.
pub(crate) type Rounded = Arc<OnceLock<Arc<Buffer>>>;

impl Parameter {
    /// The name, as in Hugging Face files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape; a linear layer's weight is `[outputs, inputs]`.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether weight decay applies (matrices, not norms).
    pub fn decay(&self) -> bool {
        self.decay
    }

    /// Whether backward makes a gradient for it.
    pub fn trainable(&self) -> bool {
        self.trainable
    }

    /// The values.
    pub fn data(&self) -> &Buffer {
        &self.data
    }

    /// The gradient, if a backward pass has reached the parameter since the last clearing.
    pub fn grad(&self) -> Option<&Buffer> {
        self.grad.as_ref().filter(|_| self.has_grad)
    }

    /// Weights to change beside their gradient; `None` if there is no gradient.
    ///
    /// # Errors
    /// If a tape still holds the weights: drop tapes and tensors before the optimiser's step.
    pub fn step(&mut self) -> Result<Option<(&mut Buffer, &Buffer)>, TensorError> {
        if !self.has_grad {
            return Ok(None);
        }
        let Some(grad) = &self.grad else { return Ok(None) };
        self.rounded = Rounded::default();
        let data = unshared(&self.name, &mut self.data)?;
        Ok(Some((data, grad)))
    }

    /// The gradient to change in place, such as for all-reduce or scaling.
    pub fn grad_mut(&mut self) -> Option<&mut Buffer> {
        self.grad.as_mut().filter(|_| self.has_grad)
    }
}

impl<'a> IntoIterator for &'a ParameterStore {
    type Item = &'a Parameter;
    type IntoIter = std::slice::Iter<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a mut ParameterStore {
    type Item = &'a mut Parameter;
    type IntoIter = std::slice::IterMut<'a, Parameter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

fn unshared<'a>(name: &str, data: &'a mut Arc<Buffer>) -> Result<&'a mut Buffer, TensorError> {
    Arc::get_mut(data).ok_or_else(|| TensorError::Parameter {
        name: name.to_owned(),
        problem: "is still held by a tape or a tensor; drop those before changing it".to_owned(),
    })
}

/// The parameters of a model on one device.
#[derive(Debug)]
pub struct ParameterStore {
    device: Device,
    serial: u64,
    parameters: Vec<Parameter>,
    names: BTreeMap<String, ParameterId>,
}

impl ParameterStore {
    /// Makes an empty store.
    pub fn new(device: Device) -> Self {
        let serial = STORES.fetch_add(1, Ordering::Relaxed);
        Self { device, serial, parameters: Vec::new(), names: BTreeMap::new() }
    }

    /// The device that holds the buffers.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds a trainable parameter with its first values; `decay` says whether weight decay applies.
    pub fn add(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
        decay: bool,
    ) -> Result<ParameterId, TensorError> {
        let shape = self.check_new(name, shape, values.len())?;
        let data = self.device.upload(values);
        Ok(self.insert(name, shape, data, decay, true))
    }

    /// Adds a matrix whose rows are whole blocks; such a parameter is never trained.
    pub fn add_quantised(
        &mut self,
        name: &str,
        shape: &[usize],
        format: BlockFormat,
        bytes: Vec<u8>,
    ) -> Result<ParameterId, TensorError> {
        let values = format.values_in(bytes.len());
        let shape = self.check_new(name, shape, values.unwrap_or(0))?;
        if values.is_none() || !shape.last().is_multiple_of(format.block_values()) {
            let problem = format!("of shape {shape} cannot be stored in rows of {format} blocks");
            return Err(TensorError::Parameter { name: name.to_owned(), problem });
        }
        let data = self.device.upload_quantised(format, bytes);
        Ok(self.insert(name, shape, data, false, false))
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.parameters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    /// Number of values in all parameters.
    pub fn elements(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.shape.elements()).sum()
    }

    /// Finds a parameter by name.
    pub fn id(&self, name: &str) -> Option<ParameterId> {
        self.names.get(name).copied()
    }

    /// The parameter.
    ///
    /// # Panics
    /// If `id` is of another, larger store.
    pub fn get(&self, id: ParameterId) -> &Parameter {
        &self.parameters[id.0]
    }

    /// All parameters in the order of adding.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.parameters.iter()
    }

    /// All parameters in the order of adding, to be stepped.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Parameter> {
        self.parameters.iter_mut()
    }

    /// The parameter as an input of operations.
    pub fn leaf(&self, id: ParameterId) -> Tensor {
        let parameter = &self.parameters[id.0];
        Tensor {
            source: Source::Parameter { store: self.serial, id },
            shape: parameter.shape,
            buffer: Arc::clone(&parameter.data),
            rounded: Some(Arc::clone(&parameter.rounded)),
            needs_grad: parameter.trainable,
        }
    }

    /// Says whether backward makes a gradient for the parameter.
    pub fn set_trainable(&mut self, id: ParameterId, trainable: bool) {
        let parameter = &mut self.parameters[id.0];
        parameter.trainable = trainable && parameter.data.blocks().is_none();
    }

    /// A copy of all values as they are now, without gradients: what is written to disk while
    /// training goes on. Frozen and quantised parameters, which no step changes, are shared: neither
    /// store can write them while both stand.
    pub fn snapshot(&self) -> Self {
        let mut copy = Self::new(self.device.clone());
        for parameter in &self.parameters {
            let data = if parameter.trainable {
                let (length, dtype) = (parameter.data.len(), parameter.data.dtype());
                let mut data = self.device.allocate_as(length, dtype);
                self.device.copy(&parameter.data, &mut data);
                Arc::new(data)
            } else {
                Arc::clone(&parameter.data)
            };
            copy.names.insert(parameter.name.clone(), ParameterId(copy.parameters.len()));
            copy.parameters.push(Parameter {
                name: parameter.name.clone(),
                data,
                rounded: Rounded::default(),
                grad: None,
                has_grad: false,
                ..*parameter
            });
        }
        copy
    }

    /// Reads the values.
    pub fn read(&self, id: ParameterId) -> Vec<f32> {
        self.download(&self.parameters[id.0].data)
    }

    /// Reads the gradient, if there is one.
    pub fn read_grad(&self, id: ParameterId) -> Option<Vec<f32>> {
        self.parameters[id.0].grad().map(|grad| self.download(grad))
    }

    /// Replaces the values.
    ///
    /// # Errors
    /// If the length differs or a tape still holds the parameter.
    pub fn write(&mut self, id: ParameterId, values: &[f32]) -> Result<(), TensorError> {
        let parameter = &mut self.parameters[id.0];
        if values.len() != parameter.shape.elements() || parameter.data.blocks().is_some() {
            let problem = format!("of shape {} cannot hold {}", parameter.shape, values.len());
            return Err(TensorError::Parameter { name: parameter.name.clone(), problem });
        }
        parameter.rounded = Rounded::default();
        self.device.write(values, unshared(&parameter.name, &mut parameter.data)?);
        Ok(())
    }

    /// Forgets all gradients; their memory is kept.
    pub fn clear_grads(&mut self) {
        self.parameters.iter_mut().for_each(|parameter| parameter.has_grad = false);
    }

    /// Gives the gradients' memory back to the pool.
    pub fn free_grads(&mut self) {
        self.clear_grads();
        self.parameters.iter_mut().for_each(|parameter| parameter.grad = None);
    }

    /// The Euclidean norm of all gradients together.
    pub fn grad_norm(&self) -> f64 {
        let grads: Vec<&Buffer> = self.parameters.iter().filter_map(Parameter::grad).collect();
        self.device.grad_norm(&grads)
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Takes the gradient buffer out, to be written; [`Self::put_grad`] brings it back.
    pub(crate) fn take_grad(&mut self, id: ParameterId) -> (Buffer, Accumulate) {
        let parameter = &mut self.parameters[id.0];
        let accumulate = if parameter.has_grad { Accumulate::Yes } else { Accumulate::No };
        parameter.has_grad = false;
        let buffer = parameter.grad.take();
        let elements = parameter.shape.elements();
        (buffer.unwrap_or_else(|| self.device.allocate(elements)), accumulate)
    }

    pub(crate) fn put_grad(&mut self, id: ParameterId, grad: Buffer) {
        let parameter = &mut self.parameters[id.0];
        match &mut parameter.grad {
            Some(present) if parameter.has_grad => self.device.add_assign(present, &grad),
            slot => *slot = Some(grad),
        }
        parameter.has_grad = true;
    }

    fn check_new(&self, name: &str, shape: &[usize], values: usize) -> Result<Shape, TensorError> {
        let invalid = |problem| TensorError::Parameter { name: name.to_owned(), problem };
        if self.names.contains_key(name) {
            return Err(invalid("was added already".to_owned()));
        }
        let shape = Shape::new(shape)?;
        if shape.elements() != values {
            return Err(invalid(format!("of shape {shape} was given {values} values")));
        }
        Ok(shape)
    }

    fn insert(
        &mut self,
        name: &str,
        shape: Shape,
        data: Buffer,
        decay: bool,
        trainable: bool,
    ) -> ParameterId {
        let id = ParameterId(self.parameters.len());
        self.names.insert(name.to_owned(), id);
        self.parameters.push(Parameter {
            name: name.to_owned(),
            shape,
            data: Arc::new(data),
            rounded: Rounded::default(),
            grad: None,
            has_grad: false,
            decay,
            trainable,
        });
        id
    }

    fn download(&self, buffer: &Buffer) -> Vec<f32> {
        let mut values = vec![0.0; buffer.len()];
        self.device.download(buffer, &mut values);
        values
    }
}
