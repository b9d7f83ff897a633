"""Pure tensor mathematics of the losses: logit, links, safeguard, adaptive weights. No model, no scheduler, no device.

One step composes them: errors -> logit z -> (margin) -> link(z, target) -> weighted mean, with the safeguard between
the errors and the logit. Everything is computed in fp32 or better, whatever the precision of the inputs.
"""
