"""Turns rows of hardware runs into tables and plots that can be read: python -m bench.report bench/results/h100/*.jsonl

Writes README.md, speed-measured.png and roofline-measured.png into the folder of the rows; --page docs/guide/gpu.md also puts
the short table between the markers `<!-- gpu-table:begin -->` and `<!-- gpu-table:end -->` of that file. The same rows give
the same bytes.

Rows of a dry run are reported, too, as README-dry-run.md, speed-dry-run.png and roofline-dry-run.png: every table and plot
says DRY RUN, NOT A GPU, and --page refuses them. So are rows of several devices: an H100 and an H200 are two.

What of a product was timed in one session comes from one run, the last that timed it. Every caption says what its numbers are:

    measured   on the device that the report names
    compiled   what the compiler says of a program
    modelled   what the cost model takes or predicts
"""
