//! The USB serial line (CDC-ACM) of the Raspberry Pi Pico and Pico 2.
//!
//! USB devices must answer their host at any time, also while a model runs. Its tasks therefore run in an
//! interrupt, and the line is two pipes between them and the agent.
#![no_std]

use core::convert::Infallible;

use embassy_futures::join::join;
use embassy_rp::Peri;
use embassy_rp::bind_interrupts;
use embassy_rp::executor::InterruptExecutor;
use embassy_rp::interrupt::{self, InterruptExt, Priority};
use embassy_rp::peripherals::USB;
use embassy_rp::usb::{Driver, InterruptHandler};
use embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex;
use embassy_sync::pipe::Pipe;
use embassy_usb::Builder;
use embassy_usb::class::cdc_acm::{CdcAcmClass, Receiver, Sender, State};
use embedded_io::{ErrorType, Read, Write};
use static_cell::{ConstStaticCell, StaticCell};

type Usb = Driver<'static, USB>;
type Line = Pipe<CriticalSectionRawMutex, 1024>;

static RECEIVED: Line = Line::new();
static TO_SEND: Line = Line::new();
static EXECUTOR: InterruptExecutor = InterruptExecutor::new();

/// Bytes of a packet, one fewer than the endpoint's: a full packet would need an empty one behind it.
const PACKET: usize = 63;

bind_interrupts!(struct Interrupts {
    USBCTRL_IRQ => InterruptHandler<USB>;
});

/// Polls the executor. To be called by the handler of `SWI_IRQ_0` and by nobody else.
///
/// # Safety
///
/// Only the handler of that interrupt calls this, which is taken from [`UsbSerial::start`] on.
pub unsafe fn on_interrupt() {
    // SAFETY: passed on to the caller.
    unsafe { EXECUTOR.on_interrupt() }
}

/// The line to the host.
#[derive(Debug)]
pub struct UsbSerial(());

impl UsbSerial {
    /// Starts the USB device under the name `product`. To be called once.
    pub fn start(usb: Peri<'static, USB>, product: &'static str) -> Self {
        interrupt::SWI_IRQ_0.set_priority(Priority::P2);
        let spawner = EXECUTOR.start(interrupt::SWI_IRQ_0);
        match serve(usb, product) {
            Ok(token) => spawner.spawn(token),
            Err(_) => panic!("USB was started twice"),
        }
        Self(())
    }
}

#[embassy_executor::task]
async fn serve(usb: Peri<'static, USB>, product: &'static str) {
    static DESCRIPTORS: ConstStaticCell<[u8; 256]> = ConstStaticCell::new([0; 256]);
    static BOS: ConstStaticCell<[u8; 64]> = ConstStaticCell::new([0; 64]);
    static CONTROL: ConstStaticCell<[u8; 64]> = ConstStaticCell::new([0; 64]);
    static STATE: StaticCell<State<'static>> = StaticCell::new();
    // The ids that Raspberry Pi lends to firmware with a serial line.
    let mut config = embassy_usb::Config::new(0x2e8a, 0x000a);
    config.manufacturer = Some("Niwaki");
    config.product = Some(product);
    let driver = Driver::new(usb, Interrupts);
    let (descriptors, bos, control) = (DESCRIPTORS.take(), BOS.take(), CONTROL.take());
    let mut builder = Builder::new(driver, config, descriptors, bos, &mut [], control);
    let class = CdcAcmClass::new(&mut builder, STATE.init(State::new()), 64);
    let mut device = builder.build();
    let (sender, receiver) = class.split();
    join(device.run(), join(send(sender), receive(receiver))).await;
}

async fn receive(mut receiver: Receiver<'static, Usb>) -> ! {
    let mut packet = [0; 64];
    loop {
        receiver.wait_connection().await;
        while let Ok(len) = receiver.read_packet(&mut packet).await {
            RECEIVED.write_all(packet.get(..len).unwrap_or_default()).await;
        }
    }
}

async fn send(mut sender: Sender<'static, Usb>) -> ! {
    let mut packet = [0; PACKET];
    loop {
        let len = TO_SEND.read(&mut packet).await;
        // Nobody listens: the bytes are lost, as on a UART.
        let _ = sender.write_packet(packet.get(..len).unwrap_or_default()).await;
    }
}

impl ErrorType for UsbSerial {
    type Error = Infallible;
}

impl Read for UsbSerial {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Ok(len) = RECEIVED.try_read(buffer) {
                return Ok(len);
            }
        }
    }
}

impl Write for UsbSerial {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            if let Ok(len) = TO_SEND.try_write(bytes) {
                return Ok(len);
            }
        }
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}
