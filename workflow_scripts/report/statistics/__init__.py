"""Estimates, intervals, paired differences and Holm's correction: pure functions on item scores.

One draw of the cluster bootstrap says how often each group of items was drawn: two turns of one problem stand or fall
together. Every estimator but one is a function of sums over items, so the sums of each group, times how often it was
drawn, give all draws in one matrix product. The exception brings its own replicates: a value that each draw has to
fit again (a length-controlled win rate). Where every item is its own group this is the plain item bootstrap.

At the edge of a scale the bootstrap has no width: draws of groups that all agree agree, too. So what has bounds has an
interval of its own, one rule per kind:

| kind | interval |
|---|---|
| one group | none: nothing says how groups differ |
| several seeds | over seeds and groups: see two_level |
| a rate, every item 0 or 1 and its own group | Wilson's score interval |
| means (of strata, too) of items that have bounds | Korn & Graubard's; see korn_graubard, also where groups agree |
| what its own refits tell (replicates) | percentiles of the replicates |
| all else: F1, BLEU, perplexity, lengths, rewards | percentiles of the bootstrap; none where all draws are equal |

All but the second row are of one training, and given it: they do not hold the luck of training. Covered besides: paired
differences, McNemar's exact test, the difference a study could have seen. Not covered: the variance between seeds of a
policy that was trained once, BCa or studentised intervals.

Where things are: `cells` has what is estimated from, `estimators` the numbers, `draws` the bootstrap, `two_level` the
variance over seeds and groups, `intervals` one policy's interval, `differences` what two policies are told apart by.
"""
