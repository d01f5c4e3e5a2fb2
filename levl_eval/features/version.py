"""The version of stored features. Raised when equal inputs give others on purpose; part of every identity and every store key."""

FEATURES = 2  # how images become stored features. 2: images that are not square are resized and cropped as torchvision does
