use niwaki::export::{self, AlignedVec};
use niwaki::target::*;
use niwaki_core::Model;
fn main() {
    let Target::Board(board) = Target::find("qemu-cortex-m4").unwrap() else { panic!() };
    let firmware = Firmware::build(&board, &|_| {}).unwrap();
    for path in std::env::args().skip(1) {
        let blob = export::read_model(std::path::Path::new(&path)).unwrap();
        let model = Model::new(blob.as_bytes()).unwrap();
        let input = vec![3i8; model.input().len()];
        let t = std::time::Instant::now();
        let mut d = Device::start(&board, &firmware, &model).unwrap();
        eprintln!("start {:?}", t.elapsed());
        d.profile(&input).unwrap();
        eprintln!("profile {:?}", t.elapsed());
        let t = std::time::Instant::now();
        let mixes = trace(&board, &firmware, &model, &input).unwrap();
        let analysis = export::analyse(&model, cost::Core::CortexM4);
        let (mut n, mut c) = (0, 0.0);
        for (mix, layer) in mixes.iter().zip(&analysis.layers) {
            println!(
                "{:30} {:14} {:9} pred {:9.0} {:+6.1} % cycles {:9.0}",
                layer.name,
                layer.kernel,
                mix.instructions,
                layer.instructions,
                100.0 * (layer.instructions / mix.instructions as f64 - 1.0),
                mix.cycles("cortex-m4").unwrap()
            );
            n += mix.instructions;
            c += mix.cycles("cortex-m4").unwrap();
        }
        println!("{path} {n} {c} {:?}", t.elapsed());
    }
}
