"""What surrounds the training loop: callbacks, TensorBoard, checkpoints, hardware.

`parts` makes data, network and trainer from the settings, and `training` trains them.
`examination` asks the trained network about its images, for all that is fitted to its
predictions; `cluster` and `distribution` are about runs on several devices or machines.
Imports `errors`, `config`, `data`, `stats`, `nn`, and `model`, `dataloader`, `trainer`
and `artifact`.
"""
