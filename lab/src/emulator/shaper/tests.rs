use super::super::model::Cut;
use super::*;
use proptest::prelude::*;

/// Frames as (microseconds since the frame before, bytes).
fn traffic() -> impl Strategy<Value = Vec<(u64, usize)>> {
    prop::collection::vec((0u64..3_000, 60usize..1514), 1..200)
}

fn model() -> impl Strategy<Value = LinkModel> {
    (0u64..30_000, 0u64..5_000, 0.0f64..1.0, 0u64..50_000_000, 0u64..200_000, any::<u64>())
        .prop_map(|(delay_us, jitter_us, loss, rate_bits, queue_bytes, seed)| LinkModel {
            delay_us,
            jitter_us,
            loss,
            rate_bits,
            queue_bytes,
            seed,
            cut: Cut::None,
        })
}

/// Runs the traffic through a link on virtual time: frame number, offered at, left at.
fn run(model: &LinkModel, traffic: &[(u64, usize)]) -> (Vec<(usize, Instant, Instant)>, Counters) {
    let mut shaper = Shaper::new(Direction::AToB, model.clone());
    let mut now = Instant::now();
    let mut offered = Vec::new();
    for (number, (pause, bytes)) in traffic.iter().enumerate() {
        now += Duration::from_micros(*pause);
        offered.push(now);
        let verdict = shaper.offer(number, *bytes, now);
        if let Verdict::Due(due) = verdict {
            assert!(due >= now, "due in the past");
        }
    }
    let mut left = Vec::new();
    while let Some(at) = shaper.wake_at() {
        assert_eq!(
            shaper.due(at - Duration::from_nanos(1)),
            None,
            "a frame left before it was due"
        );
        while let Some(number) = shaper.due(at) {
            left.push((number, offered[number], at));
        }
    }
    (left, shaper.counters())
}

proptest! {
    #[test]
    fn no_frame_leaves_before_its_delay(model in model(), traffic in traffic()) {
        for (_, offered, left) in run(&model, &traffic).0 {
            prop_assert!(left - offered >= Duration::from_micros(model.delay_us));
        }
    }

    #[test]
    fn without_jitter_the_order_is_kept(model in model(), traffic in traffic()) {
        let (left, _) = run(&LinkModel { jitter_us: 0, ..model }, &traffic);
        prop_assert!(left.is_sorted_by_key(|(number, ..)| *number));
    }

    #[test]
    fn jitter_stays_in_its_range(model in model(), traffic in traffic()) {
        let unshaped = LinkModel { rate_bits: 0, ..model };
        for (_, offered, left) in run(&unshaped, &traffic).0 {
            prop_assert!(left - offered <= Duration::from_micros(unshaped.delay_us + unshaped.jitter_us));
        }
    }

    #[test]
    fn the_rate_is_respected(model in model(), traffic in traffic(), rate in 1_000_000u64..50_000_000) {
        let (left, _) = run(&LinkModel { jitter_us: 0, rate_bits: rate, ..model }, &traffic);
        // Between any two departures no more bits leave than the rate allows in that time.
        for (first, window) in left.iter().enumerate().filter(|(i, _)| i % 7 == 0) {
            let mut bits = 0u64;
            for later in &left[first + 1..] {
                bits += traffic[later.0].1 as u64 * 8;
                let allowed = (later.2 - window.2).as_secs_f64() * rate as f64;
                prop_assert!(bits as f64 <= allowed + 8.0 * left.len() as f64, "{bits} > {allowed}");
            }
        }
    }

    #[test]
    fn the_queue_bounds_the_wait(model in model(), traffic in traffic(), rate in 1_000_000u64..50_000_000) {
        let model = LinkModel { jitter_us: 0, rate_bits: rate, ..model };
        let longest_frame = 1514.0;
        let longest = (model.queue_bytes as f64 + longest_frame) * 8.0 / rate as f64;
        for (_, offered, left) in run(&model, &traffic).0 {
            let waited = (left - offered).as_secs_f64() - model.delay_us as f64 / 1e6;
            prop_assert!(waited <= longest + 1e-5, "{waited} > {longest}");
        }
    }

    #[test]
    fn a_cut_passes_nothing(model in model(), traffic in traffic()) {
        for cut in [Cut::Both, Cut::AToB] {
            let (left, counters) = run(&LinkModel { cut, ..model.clone() }, &traffic);
            prop_assert!(left.is_empty());
            prop_assert_eq!(counters.cut, traffic.len() as u64);
        }
        let (left, _) = run(&LinkModel { cut: Cut::BToA, loss: 0.0, rate_bits: 0, ..model }, &traffic);
        prop_assert_eq!(left.len(), traffic.len());
    }

    #[test]
    fn a_seed_reproduces(model in model(), traffic in traffic()) {
        let numbers = |(left, _): (Vec<(usize, Instant, Instant)>, Counters)| {
            left.into_iter().map(|(number, offered, left)| (number, left - offered)).collect::<Vec<_>>()
        };
        prop_assert_eq!(numbers(run(&model, &traffic)), numbers(run(&model, &traffic)));
    }

    #[test]
    fn every_frame_is_counted_once(model in model(), traffic in traffic()) {
        let (left, counters) = run(&model, &traffic);
        prop_assert_eq!(counters.offered, traffic.len() as u64);
        prop_assert_eq!(counters.passed, left.len() as u64);
        let Counters { offered, passed, cut, lost, queue_full, .. } = counters;
        prop_assert_eq!(offered, passed + cut + lost + queue_full);
    }
}

#[test]
fn the_two_directions_lose_different_frames() {
    let model = LinkModel { loss: 0.5, seed: 3, ..LinkModel::default() };
    let lost = |direction| {
        let mut shaper = Shaper::new(direction, model.clone());
        let now = Instant::now();
        (0..64)
            .map(|n| shaper.offer(n, 100, now) == Verdict::Dropped(Dropped::Loss))
            .collect::<Vec<_>>()
    };
    assert_ne!(lost(Direction::AToB), lost(Direction::BToA));
}

#[test]
fn loss_is_about_as_frequent_as_asked_for() {
    let mut shaper =
        Shaper::new(Direction::AToB, LinkModel { loss: 0.1, seed: 1, ..LinkModel::default() });
    let now = Instant::now();
    for n in 0..10_000 {
        shaper.offer(n, 100, now);
    }
    let lost = shaper.counters().lost;
    assert!((900..1_100).contains(&lost), "{lost} of 10000 lost");
}

#[test]
fn a_cut_takes_what_is_on_the_line_and_a_heal_does_not_bring_it_back() {
    let model = LinkModel { delay_us: 1_000, ..LinkModel::default() };
    let mut shaper = Shaper::new(Direction::AToB, model.clone());
    let now = Instant::now();
    assert_eq!(shaper.offer("lost", 100, now), Verdict::Due(now + Duration::from_millis(1)));
    shaper.set_model(LinkModel { cut: Cut::Both, ..model.clone() });
    shaper.set_model(model);
    assert_eq!(shaper.due(now + Duration::from_secs(1)), None);
    assert_eq!(shaper.counters().cut, 1);
    shaper.offer("kept", 100, now);
    assert_eq!(shaper.due(now + Duration::from_secs(1)), Some("kept"));
}

#[test]
fn an_idle_line_takes_a_frame_larger_than_its_queue() {
    let model = LinkModel { rate_bits: 8_000, queue_bytes: 10, ..LinkModel::default() };
    let mut shaper = Shaper::new(Direction::AToB, model);
    let now = Instant::now();
    assert_eq!(shaper.offer(1, 1_000, now), Verdict::Due(now + Duration::from_secs(1)));
    assert_eq!(shaper.offer(2, 1_000, now), Verdict::Dropped(Dropped::QueueFull));
}
