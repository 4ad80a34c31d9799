# bn-audit in an image: docs/without-node.md. The package is built and installed in one image, and copied into another.
FROM node:24-alpine AS build
WORKDIR /src
COPY package.json package-lock.json .npmrc build.js tsconfig.json tsconfig.types.json README.md CHANGELOG.md LICENSE ./
COPY bin bin
COPY build build
COPY src src
COPY docs docs
# `npm pack` builds what it packs.
RUN npm ci --ignore-scripts && npm pack --pack-destination /tmp
RUN npm install --global --prefix /opt/bn-audit --omit=peer --ignore-scripts /tmp/bn-audit-*.tgz

FROM node:24-alpine
COPY --from=build /opt/bn-audit /opt/bn-audit
ENV PATH="/opt/bn-audit/bin:$PATH"
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["bn-audit"]
