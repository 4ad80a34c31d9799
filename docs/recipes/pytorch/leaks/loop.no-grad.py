# for def train(self
# needs torch
def forward(self, images):
    with torch.no_grad():
        features = self.backbone(images)
    return self.head(features)
