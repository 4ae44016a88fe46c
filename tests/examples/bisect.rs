use niwaki::export::*;
use niwaki::target::*;
use niwaki_core::Model;
fn main() {
    let run = std::env::args().nth(1).unwrap();
    let trained = niwaki::net::Trained::load(std::path::Path::new(&run)).unwrap();
    let graph = quantise(&trained).unwrap();
    let Target::Board(board) = Target::find("qemu-cortex-m4").unwrap() else { panic!() };
    let firmware = Firmware::build(&board, &|_| {}).unwrap();
    let data = niwaki::data::load(&trained.data.spec, &trained.data.options).unwrap();
    for k in 1..=graph.nodes.len() {
        let mut g = graph.clone();
        g.nodes.truncate(k);
        g.output = g.nodes[k - 1].output;
        let e = write(&g).unwrap();
        let blob = AlignedVec::new(&e.bytes);
        let model = Model::new(blob.as_bytes()).unwrap();
        let input = quantised_inputs(&model, &data, &[0]).unwrap();
        let want = run_all(blob.as_bytes(), &input).unwrap();
        let mut d = Device::start(&board, &firmware, &model).unwrap();
        let got = d.run(&input).unwrap().output;
        let bad: Vec<usize> = (0..want.len()).filter(|&i| want[i] != got[i]).collect();
        println!(
            "{k} {} {:?}: {} of {} differ {:?}",
            g.nodes[k - 1].name,
            e.layers[k - 1].kernel,
            bad.len(),
            want.len(),
            &bad[..bad.len().min(12)]
        );
        if let Some(&b) = bad.first() {
            println!(
                "want {} got {}; arena {:?} scratch {:?}",
                want[b], got[b], e.plan.tensors, e.plan.scratch
            );
            let op = model.op(k - 1).unwrap();
            if let niwaki_core::model::Op::Conv(c) = &op {
                println!("{:?}", c.channels[b % c.output.channels]);
            }
            println!("{:.300?}", op);
            break;
        }
    }
}
