"""What surrounds the training loop: callbacks, checkpoints, directories, hardware.

`cluster` and `distribution` are about runs on several devices or machines. Imports
`errors`, `config`, `data`, and of the files at the door the ones it serves, `trainer`
and `artifact`.
"""
