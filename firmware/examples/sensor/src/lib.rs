//! Panasonic's thermal camera Grid-EYE (AMG88xx): 8 x 8 pixels over I2C, on any bus that implements
//! [`embedded_hal`]'s trait.
#![no_std]

use embedded_hal::i2c::I2c;

/// Pixels of a picture.
pub const PIXELS: usize = 64;
/// The address of a camera whose pin AD_SELECT is high.
pub const ADDRESS: u8 = 0x69;

/// The first register of the picture: two bytes per pixel, the lower one first.
const PICTURE: u8 = 0x80;
const CELSIUS_PER_STEP: f32 = 0.25;
/// The brightest pixel of the pictures that the examples' model was trained on; the darkest is 0.
const BRIGHTEST: f32 = 16.0;
/// Pictures whose pixels differ by less than this are noise.
const LEAST_CONTRAST: f32 = 2.0;

/// The camera.
#[derive(Debug)]
pub struct GridEye<B> {
    bus: B,
}

impl<B: I2c> GridEye<B> {
    /// The camera on `bus`.
    pub fn new(bus: B) -> Self {
        Self { bus }
    }

    /// Takes a picture and returns the temperatures in degrees Celsius, row by row.
    ///
    /// # Errors
    ///
    /// When the bus fails.
    pub fn temperatures(&mut self) -> Result<[f32; PIXELS], B::Error> {
        let mut bytes = [0; 2 * PIXELS];
        self.bus.write_read(ADDRESS, &[PICTURE], &mut bytes)?;
        let mut celsius = [0.0; PIXELS];
        for (value, pair) in celsius.iter_mut().zip(bytes.chunks_exact(2)) {
            // 12 bits in two's complement.
            let steps = i16::from_le_bytes([pair[0], pair[1]]) << 4 >> 4;
            *value = f32::from(steps) * CELSIUS_PER_STEP;
        }
        Ok(celsius)
    }
}

/// A picture as the model was trained on it: the coldest pixel is 0, the warmest 16; `None` where there is
/// nothing to be seen.
pub fn stretch(celsius: &[f32; PIXELS]) -> Option<[f32; PIXELS]> {
    let (mut coldest, mut warmest) = (f32::INFINITY, f32::NEG_INFINITY);
    for &value in celsius {
        coldest = coldest.min(value);
        warmest = warmest.max(value);
    }
    let contrast = warmest - coldest;
    (contrast >= LEAST_CONTRAST)
        .then(|| celsius.map(|value| (value - coldest) / contrast * BRIGHTEST))
}

#[cfg(test)]
mod tests {
    use core::convert::Infallible;

    use embedded_hal::i2c::{ErrorType, Operation};

    use super::*;

    /// A bus with a camera that sees a warm spot on a cold ground.
    struct Bus;

    impl ErrorType for Bus {
        type Error = Infallible;
    }

    impl I2c for Bus {
        fn transaction(
            &mut self,
            address: u8,
            operations: &mut [Operation<'_>],
        ) -> Result<(), Infallible> {
            assert_eq!(address, ADDRESS);
            let [Operation::Write([PICTURE]), Operation::Read(bytes)] = operations else {
                panic!("{operations:?}");
            };
            // -1.25 and 36.5 degrees.
            bytes.chunks_exact_mut(2).for_each(|pair| pair.copy_from_slice(&[0xfb, 0x0f]));
            bytes[20..22].copy_from_slice(&[146, 0]);
            Ok(())
        }
    }

    #[test]
    fn temperatures_have_signs_and_pictures_contrast() {
        let celsius = GridEye::new(Bus).temperatures().unwrap();
        assert_eq!((celsius[0], celsius[10]), (-1.25, 36.5));
        let picture = stretch(&celsius).unwrap();
        assert_eq!((picture[0], picture[10]), (0.0, 16.0));
        assert_eq!(stretch(&[20.0; PIXELS]), None);
    }
}
