"""Finds the fastest configurations: python -m bench.tune --minutes 9 [--products wanted] [--resume rows.jsonl,...]

Of every product the suite wants (with --products wanted also the networks) it runs today's choice and up to five candidates
that differ from it in kind (see differing.py): each is held against float64 at some places and coarsely against the lax program
everywhere, then the right ones are timed in turns, beside stock's program and those that `auto` takes without kernels.

Two-dimensional products of 16-bit operands come first, then the rest, then those of the networks. Within each group the longest
come first, by the least time the hardware allows: they have most to gain. What does not fit into --minutes is left to the next
run, which skips what the rows of --resume have done. Arguments, exit status, and the rows of kind "run", "device" and "compile"
are those of `bench.runner`. The others:

    tune   a candidate of a product: rank (0 is today's choice), differs (in what, from that), modelled_us; family, product,
           config, num_sms, facts, code_path, variant; error, bound, baseline_error, difference
    tuned  a product: family, product, num_sms; today; config, facts and kernel_us of what is kept, lax and lax_us beside it,
           lax_beside and lax_beside_us where `auto` takes another program beside kernels, stock_us, source; gain (today's time
           by the fastest's); timed: config and us of each

Kept is the fastest, but today's choice unless the fastest gains 3%: times of one program differ by one or two from one
compilation or device to the next, and what is tuned no longer follows the model as that gets better. `python -m bench.record`
files the time of today's choice, the one that `auto` takes until the table of tiles says otherwise.

    python -m bench.tune --tiles bench/results/h100/tune-*.jsonl

writes what was kept to kernels/tiles.json, where the model does not choose it by itself; without a GPU: see tiles.py.
"""
